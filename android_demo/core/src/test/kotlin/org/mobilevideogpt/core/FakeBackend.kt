package org.mobilevideogpt.core

/** What a test throws in the middle of a call. */
class Interrupt : RuntimeException()

/**
 * A backend whose logits tell every token in the cache and its place: two conversations give equal logits only where they hold the same.
 * It notes what is asked of it, says what a test wants it to say, and can be made to fail.
 */
class FakeBackend(override var maxContext: Int = 4096) : GraphBackend {
    override val manifest = fakeManifest(maxContext)
    override val name = "fake"
    val decoded = ArrayList<Int>() // tokens of each decoder call
    val logits = ArrayList<FloatArray>()
    val ran = ArrayList<String>()
    val loaded = LinkedHashSet<String>()
    var failAt = -1 // decoder call
    var scores = FloatArray(16) { it * 0.1f }
    var clip = 0f // what the projectors make of the clip: another value is another clip
    private val script = ArrayDeque<Int>()
    private val cache = ArrayList<Long>()

    /** The next answers' ids, whatever the conversation; [NOT_FINITE] gives logits that no sampler takes. */
    fun says(vararg ids: Int) {
        script.clear()
        script.addAll(ids.asList())
    }

    fun forget() {
        decoded.clear()
        logits.clear()
        ran.clear()
        script.clear()
        failAt = -1
        maxContext = manifest.decoder.maxContext
    }

    override fun versions() = emptyMap<String, String>()

    override fun run(graph: String, input: FloatTensor): FloatTensor {
        load(listOf(graph))
        ran += graph
        return when (graph) {
            "image_encoder" -> FloatTensor(FloatArray(16), intArrayOf(16, 1, 1))
            "frame_scorer" -> FloatTensor(scores, intArrayOf(2, 8))
            "video_encoder" -> FloatTensor(FloatArray(8), intArrayOf(8, 1, 1))
            "image_projector" -> FloatTensor(FloatArray(2304 * WIDTH) { clip + it }, intArrayOf(2304, WIDTH))
            "video_projector" -> FloatTensor(FloatArray(98 * WIDTH) { clip - it }, intArrayOf(98, WIDTH))
            else -> error("no graph $graph")
        }
    }

    override fun embed(ids: IntArray): FloatTensor {
        load(listOf("token_embedding"))
        ran += "token_embedding"
        require(ids.isNotEmpty()) { "a graph takes no empty list of ids" }
        return FloatTensor(FloatArray(ids.size * WIDTH) { ids[it / WIDTH] + 0.25f * (it % WIDTH) }, intArrayOf(ids.size, WIDTH))
    }

    override fun decode(embeds: FloatTensor, position: Int): FloatArray {
        load(listOf("decoder"))
        require(position <= cache.size && position + embeds.rows <= maxContext) { "tokens beyond the cache" }
        while (cache.size > position) cache.removeAt(cache.size - 1)
        for (row in 0 until embeds.rows) cache += (0 until WIDTH).fold(17L) { hash, i -> hash * 31 + embeds.data[row * WIDTH + i].toBits() }
        decoded += embeds.rows
        if (decoded.size - 1 == failAt) throw Interrupt() // the cache is written, and then the interrupt arrives
        val random = java.util.Random(cache.fold(1L) { hash, row -> hash * 1_000_003 + row })
        val given = FloatArray(VOCABULARY) { random.nextFloat() }
        logits += given
        val wanted = script.removeFirstOrNull() ?: return given
        return if (wanted == NOT_FINITE) FloatArray(VOCABULARY) { Float.NaN } else given.copyOf().also { it[wanted] = 2f }
    }

    override fun load(graphs: List<String>) {
        loaded += graphs
    }

    override fun release(graphs: List<String>) {
        loaded -= graphs.toSet()
        if ("decoder" in graphs) cache.clear()
    }

    override fun close() = release(GRAPHS)

    companion object {
        const val NOT_FINITE = -1
        const val WIDTH = 2
        const val VOCABULARY = 1024
    }
}

/** A manifest of the released prompt and numbers of tokens, around a decoder of width 2. */
fun fakeManifest(maxContext: Int): Manifest {
    val model = ModelConfig(
        ClipConfig(1, 1, 1, 1, 16, 1e-5),
        VideoMambaConfig(1, 1, 1, 1, 1, 1, 16, 1e-5),
        ProjectorConfig("etp", 1, 1, FakeBackend.WIDTH),
        ProjectorConfig("etp", 1, 1, FakeBackend.WIDTH),
        DecoderConfig(FakeBackend.WIDTH, 1, 1, 1, 1, 1, FakeBackend.VOCABULARY, true, 1e6, 1e-6, 32768),
        topk = true,
        stopIds = listOf(1023, 1021),
    )
    val graph = { name: String, axes: List<DynamicAxis> ->
        GraphEntry(name, "$name.pte", "", 0, emptyList(), emptyList(), axes, emptyList(), emptyMap(), "", 0.0, emptyList(), 0, "")
    }
    return Manifest(
        SCHEMA_VERSION, "executorch", "fp32", emptyMap(), emptyMap(), "stock", emptyList(), true, "fake", "fake", model,
        GRAPHS.associateWith { graph(it, if (it == "decoder") listOf(DynamicAxis("tokens", 1, 512)) else emptyList()) },
        DecoderInterface("internal", maxContext, emptyMap()),
        Preprocessing(
            16, 224, listOf(0.5, 0.5, 0.5), listOf(1.0, 1.0, 1.0), listOf(0.5, 0.5, 0.5), listOf(1.0, 1.0, 1.0), 8, 4, true, 1e-5, "", "",
        ),
        PromptTemplate(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "<|im_start|>user\n", "<image>", "<|im_end|>",
            "<|im_start|>assistant\n", -200, listOf(1023, 1021),
        ),
        emptyList(), emptyMap(), emptyMap(), 0, 0.0, 0, emptyMap(), "2026-01-31T12:00:00Z", emptyMap(), "",
    )
}
