package org.mobilevideogpt.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class SamplerTest {
    private val logits = floatArrayOf(1f, 3f, -2f, 3f, 2.5f)

    @Test
    fun `equals go to the lowest id`() {
        assertEquals(1, Sampler()(logits))
        assertEquals(0, Sampler()(FloatArray(4) { -5f }))
    }

    @Test
    fun `draws follow the probabilities`() {
        for ((temperature, topP) in listOf(1.0 to 1.0, 0.7 to 0.9, 2.0 to 0.5)) {
            val sampler = Sampler(temperature, topP, seed = 7)
            val expected = sampler.probabilities(logits)
            assertEquals(1.0, expected.sum(), 1e-12)
            val count = 200_000
            val drawn = IntArray(logits.size)
            repeat(count) { drawn[sampler(logits)]++ }
            for (id in drawn.indices) {
                val deviation = Math.sqrt(expected[id] * (1 - expected[id]) / count)
                assertEquals("id $id at $temperature, $topP", expected[id], drawn[id].toDouble() / count, 5 * deviation)
            }
        }
    }

    @Test
    fun `a seed makes draws repeatable, and no seed does not`() {
        fun draws(seed: Long?) = Sampler(2.0, seed = seed).let { sampler -> List(50) { sampler(FloatArray(1000)) } }
        assertEquals(draws(3), draws(3))
        assertNotEquals(draws(3), draws(4))
        assertNotEquals(draws(null), draws(null))
    }

    @Test
    fun `a tiny temperature takes the best, and the best always stays`() {
        val sampler = Sampler(1e-300, 0.9)
        repeat(20) { assertEquals(1, sampler(floatArrayOf(1f, 1e30f, -1e30f))) }
        assertEquals(listOf(0.0, 1.0, 0.0), Sampler(1.0, 1e-9).probabilities(floatArrayOf(0f, 0.1f, 0f)).toList())
    }

    @Test
    fun `options out of range and broken logits are refused`() {
        for (temperature in listOf(-0.1, Double.NaN, Double.POSITIVE_INFINITY)) {
            says(thrown<VideoGptException.BadOption> { Sampler(temperature) }, "the temperature is")
        }
        for (topP in listOf(0.0, 1.1, Double.NaN)) says(thrown<VideoGptException.BadOption> { Sampler(1.0, topP) }, "top-p is")
        says(thrown<VideoGptException.BadOption> { Sampler(1.0, 1.0, -1) }, "the seed is -1")
        for (bad in listOf(Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY)) {
            for (temperature in listOf(0.0, 1.0)) {
                val error = thrown<VideoGptException.LogitsNotFinite> { Sampler(temperature)(floatArrayOf(1f, bad)) }
                assertTrue(error.message!!, "not finite" in error.message!!)
            }
        }
    }
}
