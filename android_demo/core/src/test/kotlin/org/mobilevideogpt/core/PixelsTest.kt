package org.mobilevideogpt.core

import java.nio.ByteBuffer
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

/** What golden vectors do not hold: see GoldenTest. */
class PixelsTest {
    @Test
    fun `scores that are no numbers tie`() {
        val scores = arrayOf(FloatArray(8) { Float.NaN }, floatArrayOf(1f, Float.NaN, 3f, 2f, 3f, 0f, Float.NEGATIVE_INFINITY, 2f))
        val chosen = selectKeyFrames(scores, topk = true, count = 4, tie = 1e-5)
        assertArrayEquals(intArrayOf(0, 1, 2, 3), chosen[0])
        assertArrayEquals(intArrayOf(2, 3, 4, 7), chosen[1])
    }

    @Test
    fun `ties go to the earlier frame`() {
        val scores = arrayOf(floatArrayOf(100f, 100.0005f, 100.0011f, 100.0005f, 0f, 0f, 0f, 0f))
        assertArrayEquals(intArrayOf(1), selectKeyFrames(scores, topk = true, count = 1, tie = 1e-5)[0])
        assertArrayEquals(intArrayOf(2), selectKeyFrames(scores, topk = true, count = 1, tie = 0.0)[0])
        assertArrayEquals(intArrayOf(4, 5), selectKeyFrames(scores, topk = false, count = 2, tie = 1e-5)[0])
    }

    @Test
    fun `a turned picture's corners are where they belong`() {
        val luma = byteArrayOf(16, 100, 180.toByte(), 235.toByte(), 50, 60, 70, 80) // [2, 4]
        fun greys(rotation: Int): List<Int> {
            val grey = ByteBuffer.wrap(ByteArray(2) { 128.toByte() })
            val planes = Planes(4, 2, ByteBuffer.wrap(luma), 4, 1, grey, grey, 2, 1, ColorMatrix.BT709, false, rotation)
            return planes.toRgb().let { image -> List(8) { image.data[3 * it].toInt() and 255 } }
        }
        val upright = greys(0)
        val at = { row: Int, column: Int -> upright[4 * row + column] }
        assertEquals("clockwise", listOf(at(1, 0), at(0, 0), at(1, 1), at(0, 1), at(1, 2), at(0, 2), at(1, 3), at(0, 3)), greys(90))
        assertEquals(upright.reversed(), greys(180))
        assertEquals(listOf(at(0, 3), at(1, 3), at(0, 2), at(1, 2), at(0, 1), at(1, 1), at(0, 0), at(1, 0)), greys(270))
    }

    @Test
    fun `a frame is resized in a blink`() {
        val image = RgbImage(1920, 1080, ByteArray(1920 * 1080 * 3) { (it * 7919).toByte() })
        fun milliseconds(): Double {
            val start = System.nanoTime()
            clipResize(image, 224)
            videoResize(image, 224)
            return (System.nanoTime() - start) / 1e6
        }
        repeat(5) { milliseconds() }
        val best = List(10) { milliseconds() }.min()
        println("1080p resized twice in %.1f ms".format(best))
        assertEquals("a 1080p frame took $best ms", true, best < 200)
    }
}
