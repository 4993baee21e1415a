package org.mobilevideogpt.core

import java.util.Locale
import java.util.Random
import org.json.JSONObject

/**
 * What is timed: [newTokens] greedy steps behind a video and a sentence, [runs] times after a run that does not count; with [context]
 * so many synthetic embeddings in place of the video. The medians count.
 */
class BenchOptions(val machine: Machine, val context: Int? = null, val newTokens: Int = 32, val runs: Int = 3)

/** What the report says of the machine: [device] is what runs the graphs, [threads] are the backend's, [versions] join the backend's.
 * [thermalState] is asked before and after. */
class Machine(
    val threads: Int,
    val device: String = "cpu",
    val versions: Map<String, String> = emptyMap(),
    val processAgeSeconds: () -> Double = ::processAgeSeconds,
    val thermalState: () -> String = { "unknown" },
)

/** One timed pass, in seconds: of each stage up to the prefill, of choosing the first token, of each step after it, and to the first token
 * of another question about the same video; and how old the process was when the first token was there. */
private class Run(
    val contextTokens: Int,
    val stages: Map<String, Double>,
    val sampling: Double,
    val steps: List<Double>,
    val again: Double,
    val firstTokenAt: Double,
) {
    val firstToken: Double get() = stages.values.sum() + sampling
    val answer: Double get() = firstToken + steps.sum()
}

/** What the benchmark measured, under the keys and in the units of `python -m runtime_py.bench`. */
class BenchReport internal constructor(private val fields: Map<String, Any?>) {
    val firstTokenSeconds: Double get() = fields.getValue("ttft_s") as Double
    val prefillTokensPerSecond: Double get() = fields.getValue("prefill_tok_s") as Double
    val decodeTokensPerSecond: Double get() = fields.getValue("decode_tok_s") as Double

    /** Seconds of each stage up to the first token. */
    @Suppress("UNCHECKED_CAST")
    val stagesSeconds: Map<String, Double> get() = fields.getValue("stages_s") as Map<String, Double>

    /** One line of JSON. */
    fun toJson(): String = JSONObject(
        fields.mapValues { (_, value) -> if (value is Map<*, *>) JSONObject(value) else value ?: JSONObject.NULL },
    ).toString()
}

/**
 * Warms up, times the runs, and reports. Synthetic input: speed does not depend on what a video shows. [progress] gets a line a run.
 *
 * Errors: [VideoGptException.BadOption] where what is asked for does not fit the context.
 */
fun bench(bundle: Bundle, backend: GraphBackend, options: BenchOptions, progress: (String) -> Unit = {}): BenchReport {
    val (context, newTokens, runs) = Triple(options.context, options.newTokens, options.runs)
    if ((context ?: 1) < 1 || newTokens < 1 || runs < 1) {
        throw VideoGptException.BadOption("a benchmark of no tokens or no runs: give at least 1")
    }
    val tokens = context ?: (TEXT_TOKENS + backend.manifest.model.visualTokens)
    if (tokens + newTokens > backend.maxContext) {
        val what = "$tokens tokens and $newTokens new ones"
        throw VideoGptException.BadOption("$what do not fit the context of ${backend.maxContext} tokens: give fewer")
    }
    val machine = options.machine
    val thermalBefore = machine.thermalState()
    val input = if (context == null) SyntheticVideo(backend) else SyntheticContext(backend, context)
    val timed = ArrayList<Run>()
    for (number in 0..runs) {
        val run = runOnce(backend, input, newTokens, machine)
        val name = if (number == 0) "warm-up" else "run $number of $runs"
        val rate = 1 / median(run.steps)
        progress("$name: first token after %.3f s, then %.1f tokens/s".format(Locale.ROOT, run.firstToken, rate))
        timed += run
    }
    val counted = timed.drop(1)
    val stages = counted[0].stages.keys.associateWith { stage -> median(counted.map { it.stages.getValue(stage) }) }
    val sampling = median(counted.map { it.sampling })
    return BenchReport(
        linkedMapOf(
            "backend" to backend.name,
            "device" to machine.device,
            "dtype" to null, // a bundle's is its recipe's
            "source" to bundle.folder.path,
            "stages_s" to stages,
            "sampling_s" to sampling,
            "ttft_s" to stages.values.sum() + sampling,
            "again_ttft_s" to median(counted.map { it.again }),
            "answer_s" to median(counted.map { it.answer }),
            "context_tokens" to counted[0].contextTokens,
            "prefill_tok_s" to counted[0].contextTokens / stages.getValue("prefill"),
            "decode_tok_s" to median(counted.flatMap { run -> run.steps.map { 1 / it } }),
            "cold_ttft_s" to timed[0].firstTokenAt,
            "new_tokens" to newTokens,
            "runs" to runs,
            "threads" to machine.threads,
            "peak_rss_bytes" to peakRssBytes(),
            "bundle_bytes" to backend.manifest.bundleBytes,
            "versions" to backend.versions() + machine.versions,
            "thermal_state" to mapOf("before" to thermalBefore, "after" to machine.thermalState()),
        ),
    )
}

private const val SEED = 0L
private const val TEXT_TOKENS = 30 // around the visual tokens, half before and half behind: a question of one sentence in its template
private const val EMBEDDING_SCALE = 0.02f // standard deviation of synthetic embeddings, as Qwen2's own have

/** What stands before the decoder. */
private fun interface Synthetic {
    /** All stages before the decoder: [N, D]. */
    fun embeds(backend: GraphBackend): FloatTensor
}

/** A synthetic clip, and a prompt around it. */
private class SyntheticVideo(backend: GraphBackend) : Synthetic {
    private val random = Random(SEED)
    private val shape = with(backend.manifest.preprocessing) { intArrayOf(frames, 3, imageSize, imageSize) } // [16, 3, 224, 224]
    private val pixels = Pixels(noise(), noise())
    private val text = IntArray(TEXT_TOKENS) { random.nextInt(backend.manifest.model.decoder.vocab) }

    override fun embeds(backend: GraphBackend): FloatTensor {
        val visual = visualTokens(backend, pixels).tokens
        backend.release(VISION)
        return promptEmbeds(backend, text.copyOfRange(0, TEXT_TOKENS / 2), visual, text.copyOfRange(TEXT_TOKENS / 2, TEXT_TOKENS))
    }

    private fun noise() = FloatTensor(FloatArray(shape.fold(1, Int::times)) { random.nextFloat() * 255 }, shape)
}

/** Synthetic embeddings in place of a video and a prompt. */
private class SyntheticContext(backend: GraphBackend, tokens: Int) : Synthetic {
    private val filling: FloatTensor

    init {
        val random = Random(SEED)
        val width = backend.manifest.model.decoder.width
        filling = FloatTensor(FloatArray(tokens * width) { random.nextGaussian().toFloat() * EMBEDDING_SCALE }, intArrayOf(tokens, width))
    }

    override fun embeds(backend: GraphBackend): FloatTensor = filling
}

/**
 * Prefills and takes greedy steps behind it; stop ids are ignored. As in a session the graphs that watch are freed when they have; they
 * are loaded again for the next video, and that belongs to its first token.
 *
 * Another question then stands in the first one's place, behind the video, as [Session.startOver] has it. A step is what a token costs:
 * its embedding, the decoder, and the choice of the next.
 */
private fun runOnce(backend: GraphBackend, input: Synthetic, newTokens: Int, machine: Machine): Run {
    val clock = System::nanoTime
    val stages = LinkedHashMap<String, Double>()
    val (timed, sampler) = TimedBackend(backend, stages, clock) to Sampler()
    val embeds = input.embeds(timed)
    val context = embeds.rows
    val logits = timed.decode(embeds, 0)
    stages["prefill"] = stages.remove("decoder")!!
    var started = clock()
    var token = sampler(logits)
    val (sampling, firstTokenAt) = secondsSince(started, clock) to machine.processAgeSeconds()
    val steps = List(newTokens) { step ->
        started = clock()
        token = sampler(backend.decode(embed(backend, intArrayOf(token)), context + step))
        secondsSince(started, clock)
    }
    val question = IntArray(minOf(TEXT_TOKENS / 2, context)) { token }
    started = clock()
    sampler(backend.decode(embed(backend, question), context - question.size))
    return Run(context, stages, sampling, steps, secondsSince(started, clock), firstTokenAt)
}

private fun median(values: List<Double>): Double {
    val sorted = values.sorted()
    val middle = sorted.size / 2
    return if (sorted.size % 2 == 1) sorted[middle] else (sorted[middle - 1] + sorted[middle]) / 2
}
