package org.mobilevideogpt.core

/**
 * CLIP's pixels of up to 16 frames, as Pillow makes them: shortest side to 224 by antialiased bicubic, centre crop.
 * Float32 in 0..255, [16, 3, 224, 224]; missing frames are mean x 255.
 */
fun clipPixels(frames: List<RgbImage>, p: Preprocessing): FloatTensor =
    padded(frames.map { clipResize(it, p.imageSize) }, p, p.imageMean)

/**
 * VideoMamba's pixels of up to 16 frames, as OpenCV makes them: squashed to 224 x 224 by bilinear without antialiasing.
 * Float32 in 0..255, [16, 3, 224, 224]; missing frames are mean x 255.
 */
fun videoPixels(frames: List<RgbImage>, p: Preprocessing): FloatTensor =
    padded(frames.map { videoResize(it, p.imageSize) }, p, p.videoMean)

/** Pillow's `resize(..., BICUBIC)` to a shortest side of [size] and the centre crop: [H, W, 3] -> [size, size, 3]. */
fun clipResize(image: RgbImage, size: Int): RgbImage {
    val width = if (image.width <= image.height) size else (size.toDouble() * image.width / image.height).toInt()
    val height = if (image.width <= image.height) (size.toDouble() * image.height / image.width).toInt() else size
    val columns = BicubicTaps(image.width, width, (width - size) / 2, size)
    val rows = BicubicTaps(image.height, height, (height - size) / 2, size)
    val out = ByteArray(size * size * 3)
    // Each pass rounds to bytes, so their order shows. Pillow 13 begins with the columns where that takes away many more rows.
    val lostRows = image.height - height
    val lostColumns = image.width - width
    if (lostRows > 0 && lostRows > 2 * lostColumns) {
        // [H, W, 3] -> [size, w, 3] -> [size, size, 3], where w is what the rows of the crop read.
        val left = columns.begin
        val wide = (columns.end - left) * 3
        val low = ByteArray(size * wide)
        val sums = IntArray(wide)
        for (row in 0 until size) rows.downColumns(row, image.data, left * 3, image.width * 3, sums, low, row * wide)
        for (row in 0 until size) columns.acrossRow(low, row * wide - left * 3, out, row * size * 3)
    } else {
        // [H, W, 3] -> [h, size, 3] -> [size, size, 3], where h is what the columns of the crop read.
        val top = rows.begin
        val wide = size * 3
        val narrow = ByteArray((rows.end - top) * wide)
        val sums = IntArray(wide)
        for (row in top until rows.end) columns.acrossRow(image.data, row * image.width * 3, narrow, (row - top) * wide)
        for (row in 0 until size) rows.downColumns(row, narrow, -top * wide, wide, sums, out, row * wide)
    }
    return RgbImage(size, size, out)
}

/**
 * OpenCV's `resize(..., INTER_LINEAR)` on bytes: [H, W, 3] -> [size, size, 3]. Both passes are in fixed point with weights of 11 bits;
 * the vertical one drops bits before and after its products as OpenCV's does.
 */
fun videoResize(image: RgbImage, size: Int): RgbImage {
    val columns = LinearTaps(image.width, size, clampWeights = true)
    val rows = LinearTaps(image.height, size, clampWeights = false)
    val out = ByteArray(size * size * 3)
    var upper = IntArray(size * 3) // [size, 3]: two rows of the image after the horizontal pass
    var lower = IntArray(size * 3)
    var upperRow = -1
    var lowerRow = -1
    for (row in 0 until size) {
        val first = rows.first[row]
        val second = rows.second[row]
        if (first == lowerRow) { // going down, the lower row becomes the upper one
            upper = lower.also { lower = upper }
            upperRow = lowerRow
            lowerRow = -1
        }
        if (first != upperRow) columns.acrossRow(image.data, first * image.width * 3, upper)
        if (second != lowerRow) columns.acrossRow(image.data, second * image.width * 3, lower)
        upperRow = first
        lowerRow = second
        val weight0 = rows.weight0[row]
        val weight1 = rows.weight1[row]
        val start = row * size * 3
        for (i in 0 until size * 3) {
            out[start + i] = ((((weight0 * (upper[i] shr 4)) shr 16) + ((weight1 * (lower[i] shr 4)) shr 16) + 2) shr 2).toByte()
        }
    }
    return RgbImage(size, size, out)
}

/** [n][size, size, 3] bytes -> [frames, 3, size, size] floats. */
private fun padded(images: List<RgbImage>, p: Preprocessing, mean: List<Double>): FloatTensor {
    require(images.size in 1..p.frames) { "${images.size} frames where 1 to ${p.frames} are taken" }
    val plane = p.imageSize * p.imageSize
    val pixels = FloatArray(p.frames * 3 * plane)
    for (frame in 0 until p.frames) for (channel in 0 until 3) {
        val start = (frame * 3 + channel) * plane
        if (frame < images.size) {
            val data = images[frame].data
            for (i in 0 until plane) pixels[start + i] = (data[3 * i + channel].toInt() and 255).toFloat()
        } else {
            pixels.fill(mean[channel].toFloat() * 255f, start, start + plane)
        }
    }
    return FloatTensor(pixels, intArrayOf(p.frames, 3, p.imageSize, p.imageSize))
}

/** Which samples of a side of [from] make each of [shown] samples, counted from [start], of the side resized to [to], and their weights. */
private class BicubicTaps(from: Int, to: Int, start: Int, private val shown: Int) {
    private val first = IntArray(shown)
    private val count = IntArray(shown)
    private val most: Int
    private val weights: IntArray // [shown, most], times 2^22

    init {
        val scale = from.toDouble() / to
        val filterScale = maxOf(scale, 1.0) // antialiasing: the filter widens where the side shrinks
        val support = 2.0 * filterScale
        most = Math.ceil(support).toInt() * 2 + 1
        weights = IntArray(shown * most)
        val exact = DoubleArray(most)
        for (i in 0 until shown) {
            val center = (start + i + 0.5) * scale
            first[i] = maxOf((center - support + 0.5).toInt(), 0)
            count[i] = minOf((center + support + 0.5).toInt(), from) - first[i]
            var sum = 0.0
            for (k in 0 until count[i]) {
                exact[k] = bicubic((k + first[i] - center + 0.5) * (1.0 / filterScale))
                sum += exact[k]
            }
            for (k in 0 until count[i]) {
                val weight = (if (sum != 0.0) exact[k] / sum else exact[k]) * (1 shl PRECISION_BITS)
                weights[i * most + k] = (if (weight < 0) weight - 0.5 else weight + 0.5).toInt()
            }
        }
    }

    /** The first sample that is read, and the one behind the last. */
    val begin: Int get() = first[0]
    val end: Int get() = first[shown - 1] + count[shown - 1]

    /** One row: [W, 3] at [row] of [data] -> [shown, 3] at [target] of [out]. */
    fun acrossRow(data: ByteArray, row: Int, out: ByteArray, target: Int) {
        var to = target
        for (i in 0 until shown) {
            var red = HALF
            var green = HALF
            var blue = HALF
            var from = row + 3 * first[i]
            val end = i * most + count[i]
            for (k in i * most until end) {
                val weight = weights[k]
                red += (data[from].toInt() and 255) * weight
                green += (data[from + 1].toInt() and 255) * weight
                blue += (data[from + 2].toInt() and 255) * weight
                from += 3
            }
            out[to] = clipped(red)
            out[to + 1] = clipped(green)
            out[to + 2] = clipped(blue)
            to += 3
        }
    }

    /** Row [i] of the result, at [target] of [out], from rows that begin at [start] of [data], every [stride] bytes. */
    fun downColumns(i: Int, data: ByteArray, start: Int, stride: Int, sums: IntArray, out: ByteArray, target: Int) {
        sums.fill(HALF)
        for (k in 0 until count[i]) {
            val weight = weights[i * most + k]
            val from = start + (first[i] + k) * stride
            for (x in sums.indices) sums[x] += (data[from + x].toInt() and 255) * weight
        }
        for (x in sums.indices) out[target + x] = clipped(sums[x])
    }

    private fun clipped(sum: Int): Byte {
        val value = sum shr PRECISION_BITS
        return (if (value < 0) 0 else if (value > 255) 255 else value).toByte()
    }

    /** The cubic convolution kernel with a = -0.5 (Keys 1981). */
    private fun bicubic(at: Double): Double {
        val x = Math.abs(at)
        return when {
            x < 1.0 -> ((A + 2.0) * x - (A + 3.0)) * x * x + 1
            x < 2.0 -> (((x - 5) * x + 8) * x - 4) * A
            else -> 0.0
        }
    }

    private companion object {
        const val A = -0.5
        const val PRECISION_BITS = 22
        const val HALF = 1 shl (PRECISION_BITS - 1)
    }
}

/**
 * The two neighbours that make each sample of a side resized from [from] to [to], and their weights, times 2^11.
 *
 * Beyond the ends both are the last sample. OpenCV gives it the whole weight then in a row ([clampWeights]), but leaves the weights
 * as they are down a column, where they lose a bit to rounding.
 */
private class LinearTaps(from: Int, to: Int, clampWeights: Boolean) {
    val first = IntArray(to)
    val second = IntArray(to)
    val weight0 = IntArray(to)
    val weight1 = IntArray(to)

    init {
        val scale = 1.0 / (to.toDouble() / from)
        for (i in 0 until to) {
            val at = ((i + 0.5) * scale - 0.5).toFloat() // half-pixel centres, in float32 as OpenCV has them
            val floor = Math.floor(at.toDouble()).toInt()
            first[i] = floor.coerceIn(0, from - 1)
            second[i] = (floor + 1).coerceIn(0, from - 1)
            val part = if (clampWeights && (floor < 0 || floor >= from - 1)) 0f else at - floor
            weight0[i] = Math.rint(((1f - part) * SCALE).toDouble()).toInt()
            weight1[i] = Math.rint((part * SCALE).toDouble()).toInt()
        }
    }

    /** One row: [W, 3] at [row] of [data] -> [to, 3], times 2^11. */
    fun acrossRow(data: ByteArray, row: Int, out: IntArray) {
        for (i in first.indices) {
            val left = row + 3 * first[i]
            val right = row + 3 * second[i]
            for (channel in 0 until 3) {
                out[3 * i + channel] =
                    (data[left + channel].toInt() and 255) * weight0[i] + (data[right + channel].toInt() and 255) * weight1[i]
            }
        }
    }

    private companion object {
        const val SCALE = 2048f
    }
}
