package org.mobilevideogpt.core

import java.util.Locale

/** One comparison of what this phone computes with what the build stored; [detail] is for the user. */
class Check(val name: String, val passed: Boolean, val detail: String)

/** What the self-test found. */
class SelfTestReport(val checks: List<Check>) {
    val passed: Boolean get() = checks.all { it.passed }
}

/**
 * Computes on this phone what the build stored beside the graphs, and compares: the resizers' pixels, the tokenizer's ids, and the whole
 * pipeline on the stored frames, with decoding fed by the model's own ids.
 *
 * As in the build's parity check, key frames may differ where the reference's margin is within the measured error of the scores, and
 * what follows is then computed with the reference's; an id may differ where the two best logits are as near as the first step's logits
 * were off. That excuses few: where as many ids as on the building machine are equal, but for two. The decoder's cache is overwritten.
 * Errors: those of [Golden.read] and of the [backend].
 */
fun selfTest(bundle: Bundle, backend: GraphBackend): SelfTestReport {
    val golden = bundle.golden()
    val p = backend.manifest.preprocessing
    val tokenizer = if (bundle.hasTokenizer) tokenizerCheck(golden, bundle.tokenizer()) else null
    return SelfTestReport(listOfNotNull(pixelCheck(golden, p), tokenizer) + pipelineChecks(golden.reference, backend))
}

private fun pixelCheck(golden: Golden, p: Preprocessing): Check {
    val furthest = golden.resize.maxOf { case ->
        maxOf(furthest(clipResize(case.source, p.imageSize), case.clip), furthest(videoResize(case.source, p.imageSize), case.video))
    }
    return Check("pixels", furthest <= 1, "${golden.resize.size} pictures, at most $furthest of 255 apart")
}

/** The largest difference of two images' bytes; 255 where they are of different sizes. */
private fun furthest(one: RgbImage, other: RgbImage): Int {
    if (one.width != other.width || one.height != other.height) return 255
    return one.data.indices.maxOf { Math.abs((one.data[it].toInt() and 255) - (other.data[it].toInt() and 255)) }
}

private fun tokenizerCheck(golden: Golden, tokenizer: Tokenizer): Check {
    val wrong = golden.tokenizer.firstOrNull { case ->
        val stream = TextStream(tokenizer)
        tokenizer.encode(case.text).toList() != case.ids || case.ids.map(stream::step) != case.pieces || stream.flush() != case.flushed
    }
    val detail = if (wrong == null) "${golden.tokenizer.size} texts equal" else "other ids or pieces of ${quoted(wrong.text)}"
    return Check("tokenizer", wrong == null, detail)
}

private fun pipelineChecks(reference: Golden.Reference, backend: GraphBackend): List<Check> {
    val pixels = Pixels.of(reference.frames, backend.manifest.preprocessing)
    val expected = Array(reference.selectedFrames.size) { reference.selectedFrames[it].toIntArray() }
    val seen = visualTokens(backend, pixels, forced = expected)
    backend.release(VISION)
    val prompt = Prompt(backend.manifest.prompt, backend.manifest.preprocessing.frames)
    val (before, after) = prompt.splitAtVisualTokens(reference.ids)
    val embeds = promptEmbeds(backend, before, seen.tokens, after)
    val first = backend.decode(embeds, 0)
    val error = relativeError(first, reference.lastLogits, reference.metric)
    val logits = Check(
        "last_logits", error <= reference.threshold, "error %.4f, at most %.4f".format(Locale.ROOT, error, reference.threshold),
    )
    val slack = 2 * first.indices.maxOf { Math.abs(first[it] - reference.lastLogits[it]) } // each of two logits may be off by it
    val greedy = greedyCheck(backend, first, embeds.rows, reference, slack)
    return listOf(keyFrameCheck(seen, expected, reference.frameScores), logits, greedy)
}

/** The relative error of logits [V]: `max`, the largest difference by the largest magnitude, or `row`, the norms' quotient. Not a number
 * where a logit is none, and no bound holds it. */
private fun relativeError(value: FloatArray, reference: FloatArray, metric: String): Double {
    if (value.size != reference.size) return Double.NaN
    val differences = DoubleArray(value.size) { value[it].toDouble() - reference[it] }
    if (differences.any { !it.isFinite() }) return Double.NaN
    return if (metric == "max") {
        differences.maxOf { Math.abs(it) } / reference.maxOf { Math.abs(it.toDouble()) }
    } else {
        Math.sqrt(differences.sumOf { it * it } / reference.sumOf { it.toDouble() * it })
    }
}

private fun keyFrameCheck(seen: Watching, expected: Array<IntArray>, scores: FloatTensor): Check {
    var excused = 0
    for ((chunk, wanted) in expected.withIndex()) {
        val missing = wanted.filter { it !in seen.selected[chunk] }
        val instead = seen.selected[chunk].filter { it !in wanted }
        if (missing.isEmpty()) continue
        val truth = scores.data.copyOfRange(chunk * scores.width, (chunk + 1) * scores.width)
        val measured = truth.indices.maxOf { Math.abs(truth[it] - seen.frameScores[chunk][it]) }
        val slack = 2 * measured + TIE * truth.maxOf { Math.abs(it) } // each of two scores may be off by it, and near ties tie
        val margin = missing.maxOf { i -> instead.maxOf { j -> Math.abs(truth[i] - truth[j]) } }
        if (!(margin <= slack)) { // nor where a score is no number
            return Check("selected_frames", false, "chunk $chunk: ${seen.selected[chunk].toList()} in place of ${wanted.toList()}")
        }
        excused += missing.size
    }
    val total = expected.sumOf { it.size }
    return Check("selected_frames", true, if (excused == 0) "all $total equal" else "$excused of $total differ within the score error")
}

/**
 * Feeds the model's own ids, whatever comes out, and compares each step's best id.
 *
 * A quantized decoder's logits are off by more than the best two are apart, another decoder's by more still, and all its ids would pass
 * for near ties. So their number counts: the same graphs ran on the building machine, and its processor differs by a tie or two.
 */
private fun greedyCheck(backend: GraphBackend, first: FloatArray, tokens: Int, reference: Golden.Reference, slack: Float): Check {
    val ids = reference.greedyIds
    var (equal, excused) = 0 to 0
    var logits = first
    for (step in ids.indices) {
        if (step > 0) logits = backend.decode(embed(backend, intArrayOf(ids[step - 1])), tokens + step - 1)
        val best = Sampler()(logits)
        if (best == ids[step]) equal++ else if (logits[best] - logits[ids[step]] <= slack) excused++
    }
    val asBuilt = reference.equalIds ?: ids.size
    val passed = equal + excused == ids.size && equal >= asBuilt - FLIPS
    return Check("greedy_ids", passed, "$equal of ${ids.size} equal ($asBuilt when it was built), $excused near ties excepted")
}

private const val FLIPS = 2 // near ties that another processor's sums may turn round

private const val TIE = 1e-5f // relative, of scores: as the key frames are chosen
