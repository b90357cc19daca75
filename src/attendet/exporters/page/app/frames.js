// Images and frames of videos as pixels.

/** One still image or one frame: how it looks, and its pixels as attendet reads them. */
export class Frame {
  /**
   * @param source what a canvas can draw: an ImageBitmap or a video.
   * @param name of the file; null for a frame of the camera.
   * @param file as it was opened; null for frames.
   */
  constructor(source, name = null, file = null) {
    this.width = source.videoWidth ?? source.width;
    this.height = source.videoHeight ?? source.height;
    this.name = name;
    this.file = file;
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.width;
    this.canvas.height = this.height;
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    if (!this.pen) throw new Error("the image is too large for this browser.");
    this.pen.fillStyle = "#ffffff"; // transparent images are read on white
    this.pen.fillRect(0, 0, this.width, this.height);
    this.pen.drawImage(source, 0, 0);
  }

  /** Return {data, width, height}, RGBA. */
  pixels() {
    const { data } = this.pen.getImageData(0, 0, this.width, this.height);
    return { data, width: this.width, height: this.height };
  }

  /** Return the file as it was opened, or a frame as JPEG. */
  async blob() {
    if (this.file) return this.file;
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", 0.92));
  }
}

/** Return the frame of an image file, turned as its EXIF says, without color management. */
export async function readImage(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    const name = file.name || "the file";
    throw new Error(`This browser cannot read ${name}. Open a JPEG, PNG or WebP image.`);
  }
  try {
    return new Frame(bitmap, file.name || "image", file);
  } finally {
    bitmap.close();
  }
}

/** Return a video that plays a file or the camera. */
export async function openVideo(file) {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  if (file) {
    video.src = URL.createObjectURL(file);
  } else {
    if (!navigator.mediaDevices) throw new Error("The camera needs an https or localhost address.");
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 } },
      });
    } catch (error) {
      const denied = error.name === "NotAllowedError";
      throw new Error(denied ? "The camera is blocked in this browser." : "No camera was found.");
    }
  }
  try {
    await video.play();
  } catch {
    closeVideo(video);
    throw new Error(`This browser cannot play ${file?.name ?? "the camera"}.`);
  }
  return video;
}

export function closeVideo(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.pause();
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
}
