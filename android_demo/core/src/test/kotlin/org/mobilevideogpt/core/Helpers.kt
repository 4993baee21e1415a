package org.mobilevideogpt.core

import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assert.fail

/** The error of this kind that [run] throws. */
internal inline fun <reified T : Throwable> thrown(run: () -> Unit): T {
    try {
        run()
    } catch (error: Throwable) {
        if (error is T) return error
        throw error
    }
    fail("no ${T::class.java.simpleName}")
    throw AssertionError()
}

/** Checks an error's line: one line, that says all of these. */
internal fun says(error: VideoGptException, vararg parts: String) {
    for (part in parts) assertTrue("'$part' is not in '${error.message}'", part in error.message!!)
    assertEquals(1, error.message!!.lines().size)
}

/** Checks large arrays fast: JUnit boxes every element, which is for the first difference only. */
internal fun same(message: String, expected: ByteArray, found: ByteArray) {
    if (!expected.contentEquals(found)) assertArrayEquals(message, expected, found)
}

internal fun same(message: String, expected: FloatArray, found: FloatArray) {
    if (!expected.contentEquals(found)) assertArrayEquals(message, expected, found, 0f)
}

internal val template = PromptTemplate(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "<|im_start|>user\n", "<image>", "<|im_end|>",
    "<|im_start|>assistant\n", -200, listOf(1023, 1021),
)

internal val preprocessing = Preprocessing(
    16, 224, listOf(0.48145466, 0.4578275, 0.40821073), listOf(0.26862954, 0.26130258, 0.27577711), listOf(0.485, 0.456, 0.406),
    listOf(0.229, 0.224, 0.225), 8, 4, true, 1e-5, "bicubic", "bilinear",
)

/** The folders that the system property [name] lists. */
internal fun folders(name: String): List<File> =
    requireNotNull(System.getProperty(name)) { "run with -D$name=FOLDER" }.split(File.pathSeparatorChar).map(::File)

/** A small whole bundle, whose graphs are some bytes each: every manifest that tests need begins as this one's. */
internal class SmallBundle(val folder: File) {
    private val files = LinkedHashMap<String, ByteArray>()

    init {
        for ((i, graph) in GRAPHS.withIndex()) files["$graph.pte"] = ByteArray(3000 + 70_000 * (i % 3)) { (it * 31 + i).toByte() }
        files["reference.npz"] = ByteArray(100) { it.toByte() }
        files["parts/more.bin"] = ByteArray(10)
        folder.mkdirs()
        for ((name, bytes) in files) File(folder, name).apply { parentFile.mkdirs() }.writeBytes(bytes)
        File(folder, "README.md").writeText("A bundle.\n")
        writeManifest()
        writeSums()
    }

    /** The pin. */
    val pin: String get() = hashFile(File(folder, SUMS_FILE))

    val manifestFile get() = File(folder, MANIFEST_FILE)

    @Suppress("UNCHECKED_CAST")
    fun tree(): MutableMap<String, Any?> = mutable(
        mapOf(
            "schema_version" to JsonNumber("$SCHEMA_VERSION"), "target" to "executorch", "recipe" to "int4", "recipe_rules" to map(),
            "quant_overrides" to map(), "kernels" to "stock", "custom_operators" to listOf<Any>(), "verified" to true,
            "checkpoint_name" to "ä \u007f \"x\"", "checkpoint_fingerprint" to "f", "model" to model(),
            "graphs" to GRAPHS.associateWith(::graph),
            "decoder" to map("interface" to "internal", "max_context" to 4096, "details" to map()),
            "preprocessing" to map(
                "frames" to 16, "image_size" to 224, "image_mean" to listOf(0.5, 0.5, 0.5), "image_std" to listOf(0.5, 0.5, 0.5),
                "video_mean" to listOf(0.5, 0.5, 0.5), "video_std" to listOf(0.5, 0.5, 0.5), "chunk_frames" to 8,
                "key_frames_per_chunk" to 4, "topk" to true, "tie_tolerance" to 1e-5, "image_resize" to "a", "video_resize" to "b",
            ),
            "prompt" to map(
                "system" to "s", "user" to "u", "image" to "<image>", "end_of_turn" to "e", "assistant" to "a", "placeholder_id" to -200,
                "stop_ids" to listOf(2),
            ),
            "parity" to listOf<Any>(), "accuracy" to map(),
            "files" to listOf("reference.npz", "parts/more.bin").associateWith {
                map("sha256" to sha256(files[it]!!), "bytes" to files[it]!!.size)
            },
            "expected_memory_bytes" to 300_000_000, "bits_per_weight" to 4.5, "bundle_bytes" to files.values.sumOf { it.size },
            "tool_versions" to map(), "created" to "2026-01-31T12:00:00Z", "licenses" to map(),
        ),
    ) as MutableMap<String, Any?>

    /** Writes the manifest with what [change] makes of it, and its digest. */
    fun writeManifest(change: (MutableMap<String, Any?>) -> Unit = {}) = writeTree(tree().also(change))

    fun writeTree(tree: Map<String, Any?>) {
        val digest = sha256(canonicalJson(tree).toByteArray())
        manifestFile.writeText(canonicalJson(tree + ("manifest_sha256" to digest)))
    }

    fun writeSums(lines: List<String> = sums()) = File(folder, SUMS_FILE).writeText(lines.joinToString("") { "$it\n" })

    fun sums(): List<String> = folder.walk().filter { it.isFile && it.name != SUMS_FILE }.toList()
        .map { "${hashFile(it)}  ${it.relativeTo(folder).path}" }.sortedBy { it.drop(66) }

    private fun graph(name: String) = map(
        "name" to name, "file" to "$name.pte", "sha256" to sha256(files["$name.pte"]!!), "bytes" to files["$name.pte"]!!.size,
        "inputs" to listOf(map("name" to "x", "shape" to listOf("tokens", 8), "dtype" to "float32", "description" to "d")),
        "outputs" to listOf<Any>(), "dynamic_axes" to listOf(map("name" to "tokens", "minimum" to 1, "maximum" to 512)),
        "schemes" to listOf<Any>(), "excluded" to map(), "activations" to "", "delegated" to 0.5, "operators" to listOf("aten::add.out"),
        "peak_memory_bytes" to 5, "delegate" to "xnnpack",
    )

    private fun model() = map(
        "clip" to map("width" to 8, "depth" to 1, "heads" to 1, "mlp_width" to 8, "patch_size" to 16, "layer_norm_eps" to 1e-5),
        "videomamba" to map(
            "width" to 8, "depth" to 1, "d_inner" to 8, "d_state" to 8, "d_conv" to 4, "dt_rank" to 1, "patch_size" to 16,
            "rms_norm_eps" to 1e-5,
        ),
        "image_projector" to map("kind" to "etp", "depth" to 2, "in_width" to 8, "out_width" to 8),
        "video_projector" to map("kind" to "etp", "depth" to 2, "in_width" to 8, "out_width" to 8),
        "decoder" to map(
            "width" to 8, "layers" to 1, "heads" to 1, "kv_heads" to 1, "head_dim" to 8, "ffn_width" to 8, "vocab" to 16, "tied" to true,
            "rope_theta" to 1e6, "rms_norm_eps" to 1e-6, "max_positions" to 100,
        ),
        "topk" to true, "stop_ids" to listOf(2),
    )

    private fun map(vararg pairs: Pair<String, Any?>): Map<String, Any?> = mapOf(*pairs)

    /** A tree as the reader gives it: maps that can be changed, numbers as they are written. */
    private fun mutable(value: Any?): Any? = when (value) {
        is Map<*, *> -> LinkedHashMap(value.mapValues { mutable(it.value) })
        is List<*> -> value.map { mutable(it) }
        is Number -> JsonNumber(value.toString())
        else -> value
    }
}

@Suppress("UNCHECKED_CAST")
internal fun MutableMap<String, Any?>.at(vararg keys: String): MutableMap<String, Any?> =
    keys.fold(this) { map, key -> map[key] as MutableMap<String, Any?> }
