package org.mobilevideogpt.core

import java.io.File
import java.nio.ByteBuffer
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Python's own results, in the folders of the system property `golden`: a bundle's vectors, and more of the same form. */
class GoldenTest {
    private val folders = folders("golden")
    private val goldens = folders.map { Golden.read(it) }

    @Test
    fun `frames are picked as Python picks them`() = each({ it.pickFrames }) { case ->
        val found = pickFrames(case.total, case.fps, case.frames).toList()
        assertEquals("${case.total} frames at ${case.fps}, ${case.frames} of them", case.indices, found)
    }

    @Test
    fun `images are resized as Pillow and OpenCV resize them`() = each({ it.resize }) { case ->
        same("clip ${case.name}", case.clip.data, clipResize(case.source, 224).data)
        same("video ${case.name}", case.video.data, videoResize(case.source, 224).data)
    }

    @Test
    fun `pixels are planes of floats, padded with the mean`() {
        val case = goldens.first { it.resize.isNotEmpty() }.resize.first()
        for ((pixels, image, mean) in listOf(
            Triple(clipPixels(listOf(case.source), preprocessing), case.clip, preprocessing.imageMean),
            Triple(videoPixels(listOf(case.source), preprocessing), case.video, preprocessing.videoMean),
        )) {
            assertArrayEquals(intArrayOf(16, 3, 224, 224), pixels.shape)
            val expected = FloatArray(16 * 3 * 224 * 224) { i ->
                val channel = i / (224 * 224) % 3
                val pixel = image.data[i % (224 * 224) * 3 + channel].toInt() and 255
                if (i >= 3 * 224 * 224) mean[channel].toFloat() * 255f else pixel.toFloat()
            }
            same(case.name, expected, pixels.data)
        }
    }

    @Test
    fun `planes become the decoder's RGB`() = each({ it.planes }) { case ->
        assertEquals(case.name, case.rgb.width to case.rgb.height, case.planes.toRgb().let { it.width to it.height })
        same(case.name, case.rgb.data, case.planes.toRgb().data)
    }

    @Test
    fun `planes with strides and a crop become the same picture`() = each({ it.planes }) { case ->
        for ((uFirst, left, top) in listOf(Triple(true, 0, 0), Triple(false, 2, 4), Triple(true, 6, 2))) {
            val planes = interleaved(case.planes, uFirst, left, top)
            same("${case.name}, NV12: $uFirst, from $left, $top", case.rgb.data, planes.toRgb().data)
            assertEquals("the caller's position has moved", 1, planes.u.position())
        }
    }

    @Test
    fun `key frames are chosen as Python chooses them`() = each({ it.keyFrames }) { case ->
        val found = selectKeyFrames(case.scores, case.topk, case.count, 1e-5).map { it.toList() }
        assertEquals("${case.scores.map { it.toList() }} topk ${case.topk}", case.selected, found)
    }

    @Test
    fun `ids are Python's, and so is the text that they stream`() {
        val seen = forTokenizers { tokenizer, golden ->
            for (case in golden.tokenizer) {
                assertEquals("ids of ${codes(case.text)}", case.ids, tokenizer.encode(case.text).toList())
                val stream = TextStream(tokenizer)
                assertEquals("pieces of ${codes(case.text)}", case.pieces, case.ids.map { stream.step(it) })
                assertEquals("the end of ${codes(case.text)}", case.flushed, stream.flush())
                val whole = case.pieces.joinToString("") + case.flushed
                assertEquals(whole, tokenizer.decode(case.ids.toIntArray()))
            }
        }
        assertTrue("no vectors", seen.sumOf { it.tokenizer.size } > 0)
    }

    @Test
    fun `prompts have Python's ids`() {
        val prompt = Prompt(template)
        val seen = forTokenizers { tokenizer, golden ->
            for (case in golden.prompt) {
                assertEquals(case.opening, prompt.openingIds(tokenizer::encode).toList())
                assertEquals(case.question, case.first, prompt.questionIds(case.question, tokenizer::encode).toList())
                assertEquals(case.question, case.later, prompt.laterIds(case.question, tokenizer::encode).toList())
            }
        }
        assertTrue("no vectors", seen.sumOf { it.prompt.size } > 0)
    }

    @Test
    fun `the best token is Python's`() = each({ it.greedy }) { case -> assertEquals(case.token, Sampler()(case.logits)) }

    @Test
    fun `a nucleus holds Python's tokens with their probabilities`() = each({ it.nucleus }) { case ->
        val found = Sampler(case.temperature, case.topP).probabilities(case.logits)
        assertArrayEquals("${case.temperature}, ${case.topP}", case.probabilities.toDoubleArray(), found, 1e-6)
        for (id in found.indices) if (case.probabilities[id] > 1e-30) assertTrue("$id was cut off", found[id] > 0)
        if (case.topP < 1) for (id in found.indices) if (case.probabilities[id] == 0.0) assertTrue("$id was not", found[id] < 1e-30)
    }

    @Test
    fun `the reference is whole`() = each({ listOf(it.reference) }) { case ->
        assertTrue(case.frames.isNotEmpty() && case.ids.count { it == template.placeholderId } > 0)
        assertEquals(2, case.frameScores.rows)
        assertEquals(case.frameScores.rows, case.selectedFrames.size)
        assertTrue(case.greedyIds.isNotEmpty() && case.lastLogits.all { it.isFinite() } && case.threshold > 0)
    }

    private fun <T> each(cases: (Golden) -> List<T>, check: (T) -> Unit) {
        val all = goldens.flatMap(cases)
        assertTrue("no vectors", all.isNotEmpty())
        all.forEach(check)
    }

    private fun forTokenizers(check: (Tokenizer, Golden) -> Unit): List<Golden> = folders.zip(goldens).mapNotNull { (folder, golden) ->
        val file = File(folder, "tokenizer.json")
        golden.takeIf { file.exists() }?.also { check(Tokenizer.read(file), it) }
    }

    private fun codes(text: String) = text.take(80).map { if (it in ' '..'~') "$it" else "\\u%04x".format(it.code) }.joinToString("")

    /** The same planes as NV12 or NV21, in larger ones with padded rows and noise around. */
    private fun interleaved(planes: Planes, uFirst: Boolean, left: Int, top: Int): Planes {
        val width = planes.width
        val chromaWidth = (width + 1) / 2
        val stride = left + width + 7
        val chromaStride = left + 2 * chromaWidth + 5
        val luma = ByteArray(stride * (top + planes.height)) { (it * 7).toByte() }
        val chroma = ByteArray(chromaStride * (top / 2 + planes.height / 2)) { (it * 5).toByte() }
        for (y in 0 until planes.height) for (x in 0 until width) luma[(top + y) * stride + left + x] = planes.y.get(y * width + x)
        for (y in 0 until planes.height / 2) for (x in 0 until chromaWidth) {
            val at = (top / 2 + y) * chromaStride + left + 2 * x
            chroma[at + if (uFirst) 0 else 1] = planes.u.get(y * chromaWidth + x)
            chroma[at + if (uFirst) 1 else 0] = planes.v.get(y * chromaWidth + x)
        }
        val (first, second) = listOf(0, 1).map { ByteBuffer.wrap(chroma, it, chroma.size - it).slice().apply { position(1) } }
        return Planes(
            width, planes.height, ByteBuffer.wrap(luma), stride, 1, if (uFirst) first else second, if (uFirst) second else first,
            chromaStride, 2, planes.matrix, planes.fullRange, planes.rotation, left, top,
        )
    }
}
