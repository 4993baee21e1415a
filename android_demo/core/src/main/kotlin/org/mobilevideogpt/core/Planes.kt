package org.mobilevideogpt.core

import java.nio.Buffer
import java.nio.ByteBuffer

/** An RGB image: [height, width, 3], a byte (0..255) each. */
class RgbImage(val width: Int, val height: Int, val data: ByteArray) {
    init {
        require(width > 0 && height > 0 && data.size == width * height * 3) { "${data.size} bytes are no image of $width x $height" }
    }
}

/** How chroma and luma become RGB; swscale's coefficients, times 65536: red from V, blue from U, green from U and V. */
enum class ColorMatrix(internal val redV: Int, internal val blueU: Int, internal val greenU: Int, internal val greenV: Int) {
    /** Also what is meant where a video does not say. */
    BT601(104597, 132201, 25675, 53279),
    BT709(117489, 138438, 13975, 34925),
    BT2020(110013, 140363, 12277, 42626),
}

/**
 * A decoded frame as phones hand it out: 8-bit luma [height, width] and chroma of half the size, rounded up.
 *
 * Strides are in bytes: with a pixel stride of 2 and [u] and [v] one byte apart it is NV12 or NV21, with 1 it is I420. [width] and
 * [height] are those of what is shown, which begins at [cropLeft], [cropTop] of the planes. Buffers are read from their position 0 on,
 * whatever their position is now. [rotation] is clockwise, in degrees, and makes the picture upright.
 */
class Planes(
    val width: Int,
    val height: Int,
    val y: ByteBuffer,
    val yRowStride: Int,
    val yPixelStride: Int,
    val u: ByteBuffer,
    val v: ByteBuffer,
    val uvRowStride: Int,
    val uvPixelStride: Int,
    val matrix: ColorMatrix,
    val fullRange: Boolean,
    val rotation: Int,
    val cropLeft: Int = 0,
    val cropTop: Int = 0,
)

/**
 * The upright RGB picture that Python's decoder (swscale, through PyAV) gives for the same planes, bit for bit where the height is
 * even: its integer arithmetic, with each chroma sample standing for its block of 2 x 2.
 */
fun Planes.toRgb(): RgbImage {
    require(rotation in listOf(0, 90, 180, 270)) { "a rotation of $rotation degrees" }
    require(cropLeft >= 0 && cropTop >= 0) { "a crop that begins outside of the planes" }
    // Views of our own: the caller's positions are not ours to move.
    val (y, u, v) = listOf(y, u, v).map { it.duplicate().also(::whole) }
    val tables = ColorTables.of(matrix, fullRange)
    val turned = rotation == 90 || rotation == 270
    val outWidth = if (turned) height else width
    val out = ByteArray(width * height * 3)
    val luma = ByteArray(width)
    val scratch = ByteArray(maxOf(width * yPixelStride, (width / 2 + 2) * uvPixelStride))
    val chroma = ByteArray(2 * (width / 2 + 2)) // U and V of a row, in turns
    val firstChroma = cropLeft / 2
    val chromas = (cropLeft + width - 1) / 2 - firstChroma + 1
    for (row in 0 until height) {
        copyRow(y, (cropTop + row) * yRowStride + cropLeft * yPixelStride, yPixelStride, width, luma, 0, 1, scratch)
        if (row == 0 || (cropTop + row) % 2 == 0) {
            val start = (cropTop + row) / 2 * uvRowStride + firstChroma * uvPixelStride
            copyRow(u, start, uvPixelStride, chromas, chroma, 0, 2, scratch)
            copyRow(v, start, uvPixelStride, chromas, chroma, 1, 2, scratch)
        }
        // Where the row's first pixel lands in the upright picture, and how far the next one is: [H, W, 3] -> [H', W', 3].
        var to: Int
        val step: Int
        when (rotation) {
            90 -> { to = height - 1 - row; step = outWidth }
            180 -> { to = (height - 1 - row) * outWidth + width - 1; step = -1 }
            270 -> { to = (width - 1) * outWidth + row; step = -outWidth }
            else -> { to = row * outWidth; step = 1 }
        }
        for (column in 0 until width) {
            val pair = 2 * ((cropLeft + column) / 2 - firstChroma)
            val uValue = chroma[pair].toInt() and 255
            val vValue = chroma[pair + 1].toInt() and 255
            val light = tables.light[luma[column].toInt() and 255]
            out[3 * to] = clamped(light + tables.redV[vValue])
            out[3 * to + 1] = clamped(light + tables.greenU[uValue] + tables.greenV[vValue])
            out[3 * to + 2] = clamped(light + tables.blueU[uValue])
            to += step
        }
    }
    return RgbImage(outWidth, if (turned) width else height, out)
}

/** What each byte of luma and chroma adds to a colour: tables of 256, so that a pixel takes additions only. */
private class ColorTables(matrix: ColorMatrix, fullRange: Boolean) {
    private val scale = factor(if (fullRange) 1 shl 16 else (1 shl 16) * 255 / 219)
    private val black = if (fullRange) 0 else rounded((16 shl 16) * 8)
    val light = IntArray(256) { (((it shl 3) - black) * scale) shr 16 }
    val redV = chroma(matrix.redV, fullRange)
    val blueU = chroma(matrix.blueU, fullRange)
    val greenU = chroma(-matrix.greenU, fullRange)
    val greenV = chroma(-matrix.greenV, fullRange)

    private fun chroma(coefficient: Int, fullRange: Boolean): IntArray {
        val factor = factor(if (fullRange) (coefficient.toLong() * 224 / 255).toInt() else coefficient) // truncates towards zero
        return IntArray(256) { (((it shl 3) - 1024) * factor) shr 16 }
    }

    private fun factor(coefficient: Int): Int = ((coefficient.toLong() * 8192 + 32768) shr 16).toInt()

    private fun rounded(value: Int): Int = (value + 32768) shr 16

    companion object {
        private val made = HashMap<Pair<ColorMatrix, Boolean>, ColorTables>()

        @Synchronized
        fun of(matrix: ColorMatrix, fullRange: Boolean): ColorTables =
            made.getOrPut(matrix to fullRange) { ColorTables(matrix, fullRange) }
    }
}

/** Copies [count] samples that are [stride] bytes apart in [from] to every [every]-th byte of [to], in one read of the buffer. */
private fun copyRow(from: ByteBuffer, start: Int, stride: Int, count: Int, to: ByteArray, first: Int, every: Int, scratch: ByteArray) {
    val direct = stride == 1 && every == 1
    moveTo(from, start)
    from.get(if (direct) to else scratch, if (direct) first else 0, (count - 1) * stride + 1)
    if (!direct) for (i in 0 until count) to[first + i * every] = scratch[i * stride]
}

// As Buffer's methods: ByteBuffer's own of these names are missing before Android 9.
private fun whole(buffer: Buffer) {
    buffer.clear()
}

private fun moveTo(buffer: Buffer, position: Int) {
    buffer.position(position)
}

private fun clamped(value: Int): Byte = (if (value < 0) 0 else if (value > 255) 255 else value).toByte()
