// From an image to a network input: the resize of attendet's Python package (images.py,
// inference/preprocess.py), which is that of OpenCV: scaling to half the size or less averages
// areas, other scaling interpolates bilinearly in fixed point. A canvas would scale differently, and
// boxes would move.
//
// An image is {data, width, height} with RGBA bytes, as ImageData holds them. A network input is
// {data, height, width} with three bytes a pixel.

export const STRIDE = 32;
const PAD_VALUE = 114;
const COEFFICIENT = 2048;

/** Round as Python and OpenCV do: halves go to the even neighbor. */
export function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** Return [height, width] of the network input for an image; sides are multiples of 32. */
export function inputSizeFor([imageHeight, imageWidth], inputHw, mode) {
  if (mode !== "rect") return [...inputHw];
  const scale = Math.max(...inputHw) / Math.max(imageHeight, imageWidth);
  return [imageHeight, imageWidth].map((side) => {
    const scaled = Math.max(1, roundHalfEven(side * scale));
    return Math.ceil(scaled / STRIDE) * STRIDE;
  });
}

/**
 * Return the network input of an image, and the transform to image pixels.
 *
 * @param image RGBA bytes with width and height.
 * @param inputHw height and width of the network's input.
 * @param mode "rect", "letterbox" or "stretch".
 * @param color "rgb" or "bgr".
 * @returns {{input, transform}} a network input; offsets and scales of its pixels.
 */
export function resizeToInput(image, inputHw, mode, color = "rgb") {
  const [height, width] = inputSizeFor([image.height, image.width], inputHw, mode);
  const imageHw = [image.height, image.width];
  if (mode === "stretch") {
    const data = new Uint8Array(height * width * 3);
    resizeInto(image, { data, width, left: 0, top: 0 }, height, width, color);
    const scaleX = width / image.width;
    const scaleY = height / image.height;
    return {
      input: { data, height, width },
      transform: { imageHw, left: 0, top: 0, scaleX, scaleY },
    };
  }
  const scale = Math.min(height / image.height, width / image.width);
  const innerHeight = Math.max(1, roundHalfEven(image.height * scale));
  const innerWidth = Math.max(1, roundHalfEven(image.width * scale));
  const left = Math.floor((width - innerWidth) / 2);
  const top = Math.floor((height - innerHeight) / 2);
  const data = new Uint8Array(height * width * 3).fill(PAD_VALUE);
  resizeInto(image, { data, width, left, top }, innerHeight, innerWidth, color);
  return {
    input: { data, height, width },
    transform: { imageHw, left, top, scaleX: scale, scaleY: scale },
  };
}

/** Write an image, scaled to height x width, into a part of a network input. */
function resizeInto(image, target, height, width, color) {
  const order = color === "bgr" ? [2, 1, 0] : [0, 1, 2];
  if (image.height === height && image.width === width) {
    copy(image, target, order);
  } else if (averages(height / image.height, width / image.width)) {
    averageAreas(image, target, height, width, order);
  } else {
    interpolate(image, target, height, width, order);
  }
}

/** Return whether areas are averaged: scaled to half or less on a side, and enlarged on none. */
function averages(scaleY, scaleX) {
  return Math.min(scaleY, scaleX) <= 0.5 && Math.max(scaleY, scaleX) <= 1;
}

function copy(image, target, order) {
  for (let y = 0; y < image.height; y++) {
    let to = ((target.top + y) * target.width + target.left) * 3;
    let from = y * image.width * 4;
    for (let x = 0; x < image.width; x++, from += 4, to += 3) {
      for (let c = 0; c < 3; c++) target.data[to + c] = image.data[from + order[c]];
    }
  }
}

/** Return for each target pixel the first source pixel, and the weights of that and the next. */
function areaWeights(sourceSide, targetSide) {
  const scale = 1 / (targetSide / sourceSide);
  const first = new Int32Array(targetSide);
  const weights = [];
  for (let index = 0; index < targetSide; index++) {
    const start = index * scale;
    const end = start + scale;
    const size = Math.min(scale, sourceSide - start);
    const last = Math.min(Math.floor(end), sourceSide - 1);
    const whole = Math.min(Math.ceil(start), last);
    const own = [];
    first[index] = whole;
    if (whole - start > 1e-3) {
      first[index] = whole - 1;
      own.push((whole - start) / size);
    }
    for (let source = whole; source < last; source++) own.push(1 / size);
    if (end - last > 1e-3) own.push(Math.min(end - last, 1, size) / size);
    weights.push(Float32Array.from(own));
  }
  return { first, weights };
}

function averageAreas(image, target, height, width, order) {
  const columns = areaWeights(image.width, width);
  const rows = areaWeights(image.height, height);
  const [red, green, blue] = order;
  const sums = new Float32Array(width * 3);
  const { data } = image;
  const halvesUp = image.width === 2 * width && image.height === 2 * height;
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    const rowWeights = rows.weights[y];
    for (let i = 0; i < rowWeights.length; i++) {
      const rowStart = (rows.first[y] + i) * image.width;
      const rowWeight = rowWeights[i];
      for (let x = 0, at = 0; x < width; x++, at += 3) {
        const own = columns.weights[x];
        let from = (rowStart + columns.first[x]) * 4;
        let a = 0;
        let b = 0;
        let c = 0;
        for (let k = 0; k < own.length; k++, from += 4) {
          const weight = own[k];
          a += data[from + red] * weight;
          b += data[from + green] * weight;
          c += data[from + blue] * weight;
        }
        sums[at] += a * rowWeight;
        sums[at + 1] += b * rowWeight;
        sums[at + 2] += c * rowWeight;
      }
    }
    let to = ((target.top + y) * target.width + target.left) * 3;
    for (let at = 0; at < width * 3; at++, to++) {
      target.data[to] = halvesUp ? Math.floor(sums[at] + 0.5) : roundHalfEven(sums[at]);
    }
  }
}

/** Return for each target pixel both source pixels and their weights, 2048 together. */
function linearWeights(sourceSide, targetSide) {
  const scale = 1 / (targetSide / sourceSide);
  const near = new Int32Array(targetSide);
  const far = new Int32Array(targetSide);
  const nearWeight = new Int32Array(targetSide);
  const farWeight = new Int32Array(targetSide);
  for (let index = 0; index < targetSide; index++) {
    const position = Math.fround((index + 0.5) * scale - 0.5);
    let source = Math.floor(position);
    let fraction = Math.fround(position - source);
    if (source < 0) [source, fraction] = [0, 0];
    if (source >= sourceSide - 1) [source, fraction] = [sourceSide - 1, 0];
    near[index] = source;
    far[index] = Math.min(source + 1, sourceSide - 1);
    nearWeight[index] = roundHalfEven(Math.fround(1 - fraction) * COEFFICIENT);
    farWeight[index] = roundHalfEven(fraction * COEFFICIENT);
  }
  return { near, far, nearWeight, farWeight };
}

function interpolate(image, target, height, width, order) {
  const columns = linearWeights(image.width, width);
  const rows = linearWeights(image.height, height);
  const buffers = [new Int32Array(width * 3), new Int32Array(width * 3)];
  const held = [-1, -1]; // source rows in the buffers
  const interpolated = (row) => {
    if (held[row % 2] !== row) {
      interpolateRow(image, row, columns, order, buffers[row % 2]);
      held[row % 2] = row;
    }
    return buffers[row % 2];
  };
  for (let y = 0; y < height; y++) {
    const upper = interpolated(rows.near[y]);
    const lower = interpolated(rows.far[y]);
    const upperWeight = rows.nearWeight[y];
    const lowerWeight = rows.farWeight[y];
    let to = ((target.top + y) * target.width + target.left) * 3;
    for (let at = 0; at < width * 3; at++, to++) {
      const above = (upperWeight * upper[at]) >> 16;
      const below = (lowerWeight * lower[at]) >> 16;
      target.data[to] = (above + below + 2) >> 2;
    }
  }
}

/** Interpolate one row of an image, 128 times its gray levels. */
function interpolateRow(image, row, columns, order, result) {
  const { data } = image;
  const start = row * image.width;
  const [red, green, blue] = order;
  for (let x = 0, at = 0; at < result.length; x++, at += 3) {
    const near = (start + columns.near[x]) * 4;
    const far = (start + columns.far[x]) * 4;
    const a = columns.nearWeight[x];
    const b = columns.farWeight[x];
    result[at] = (data[near + red] * a + data[far + red] * b) >> 4;
    result[at + 1] = (data[near + green] * a + data[far + green] * b) >> 4;
    result[at + 2] = (data[near + blue] * a + data[far + blue] * b) >> 4;
  }
}
