package org.mobilevideogpt.core

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.security.MessageDigest

/** The version of `manifest.json` that this library reads. */
const val SCHEMA_VERSION = 3L

/** The file that says what a bundle is. */
const val MANIFEST_FILE = "manifest.json"

/** The graphs of every bundle. */
val GRAPHS = listOf(
    "image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector", "token_embedding", "decoder",
)

/** A size, or the name of an axis whose size the host chooses: one of the two is null. */
data class Dimension(val size: Int?, val axis: String?)

/** An input or output of a graph. [dtype] is `float32`, `float16`, `int64`, `int32`, `int8`, `uint8` or `bool`. */
data class TensorSpec(val name: String, val shape: List<Dimension>, val dtype: String, val description: String)

/** An axis whose size the host chooses, from [minimum] to [maximum], both included. */
data class DynamicAxis(val name: String, val minimum: Int, val maximum: Int)

/** How many weights of a graph are in one scheme, and the bytes they take. */
data class SchemeShare(val scheme: String, val weights: Long, val bytes: Long)

/** A file of the bundle, or for Core ML a folder. */
sealed interface Entry {
    val sha256: String
    val bytes: Long
}

/** A file of the bundle that is no graph. */
data class FileEntry(override val sha256: String, override val bytes: Long) : Entry

/** One graph. [operators] are those that no delegate runs: a host must have them. */
data class GraphEntry(
    val name: String,
    val file: String,
    override val sha256: String,
    override val bytes: Long,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    val dynamicAxes: List<DynamicAxis>,
    val schemes: List<SchemeShare>,
    val excluded: Map<String, String>,
    val activations: String,
    val delegated: Double,
    val operators: List<String>,
    val peakMemoryBytes: Long,
    val delegate: String,
) : Entry {
    /** The most tokens that one call of this graph takes, where their number is the host's choice. */
    val mostTokens: Int? get() = dynamicAxes.firstOrNull { it.name == "tokens" }?.maximum
}

/** How a host drives the decoder: [kind] is `internal`, `coreml_state` or `explicit`. */
data class DecoderInterface(val kind: String, val maxContext: Int, val details: Map<String, Any?>)

/** What a host does before and between graphs. Means and deviations are for RGB in 0..1. */
data class Preprocessing(
    val frames: Int,
    val imageSize: Int,
    val imageMean: List<Double>,
    val imageStd: List<Double>,
    val videoMean: List<Double>,
    val videoStd: List<Double>,
    val chunkFrames: Int,
    val keyFramesPerChunk: Int,
    val topk: Boolean,
    val tieTolerance: Double,
    val imageResize: String,
    val videoResize: String,
)

/** The pieces of a prompt: see `Prompt`. */
data class PromptTemplate(
    val system: String,
    val user: String,
    val image: String,
    val endOfTurn: String,
    val assistant: String,
    val placeholderId: Int,
    val stopIds: List<Int>,
)

/** One rung of the parity ladder, as the build measured it. */
data class StageParity(
    val stage: String,
    val ownError: Double,
    val chainedError: Double,
    val thresholdOwn: Double,
    val thresholdChained: Double,
    val metric: String,
    val passed: Boolean,
    val note: String,
)

/** All that `manifest.json` holds: export/manifest.py has the words on every field. Sizes are in bytes. */
data class Manifest(
    val schemaVersion: Long,
    val target: String,
    val recipe: String,
    val recipeRules: Map<String, Any?>,
    val quantOverrides: Map<String, String>,
    val kernels: String,
    val customOperators: List<String>,
    val verified: Boolean,
    val checkpointName: String,
    val checkpointFingerprint: String,
    val model: ModelConfig,
    val graphs: Map<String, GraphEntry>,
    val decoder: DecoderInterface,
    val preprocessing: Preprocessing,
    val prompt: PromptTemplate,
    val parity: List<StageParity>,
    val accuracy: Map<String, Double>,
    val files: Map<String, FileEntry>,
    val expectedMemoryBytes: Long,
    val bitsPerWeight: Double,
    val bundleBytes: Long,
    val toolVersions: Map<String, String>,
    val created: String,
    val licenses: Map<String, String>,
    val digest: String,
) {
    /** Every file that the manifest speaks for, by its path in the bundle. Two graphs may share one. */
    val entries: Map<String, Entry> get() = graphs.values.associateBy { it.file } + files

    companion object {
        /**
         * Reads a bundle's manifest.
         *
         * Errors: [VideoGptException.NoBundle] where there is none, [VideoGptException.NewerBundle], [VideoGptException.OlderBundle],
         * and [VideoGptException.BadFile] with the place where it is not what this version reads, or was changed by hand.
         */
        fun read(folder: File): Manifest {
            val file = File(folder, MANIFEST_FILE)
            if (!file.isFile) {
                val why = if (folder.isDirectory) "there is no $MANIFEST_FILE in it" else "no such folder"
                throw VideoGptException.NoBundle("$folder", why)
            }
            return parse(readText(file), "$file")
        }

        /** The manifest in [text]; [file] is its name in errors. */
        fun parse(text: String, file: String = MANIFEST_FILE): Manifest = try {
            val tree = parseJson(text)
            val version = Fields.of(tree, "") { anyKeys().long("schema_version") }
            if (version > SCHEMA_VERSION) throw VideoGptException.NewerBundle(file, version)
            if (version < SCHEMA_VERSION) throw VideoGptException.OlderBundle(file, version)
            Fields.of(tree, "") { manifest() }.also { manifest ->
                checkGraphs(manifest.graphs)
                val canonical = canonicalJson((tree as Map<*, *>) - "manifest_sha256")
                if (sha256(canonical.toByteArray()) != manifest.digest) {
                    throw JsonException("manifest_sha256 does not match the contents, as after an edit by hand")
                }
            }
        } catch (error: JsonException) {
            throw VideoGptException.BadFile("$file: ${error.message}")
        }
    }
}

private const val PART = """(?!\.{1,2}(/|$))[A-Za-z0-9._-]+""" // no '.', no '..': a path cannot leave the bundle
private val PATH = Regex("$PART(/$PART)*")
private val SHA256 = Regex("[0-9a-f]{64}")
private val AXIS = Regex("[A-Za-z_][A-Za-z0-9_]*")
private val TIMESTAMP = Regex("""[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z""")
private val DTYPES = listOf("float32", "float16", "int64", "int32", "int8", "uint8", "bool")

/** Whether a path stays inside its folder on every system: letters, digits, '.', '_', '-' between slashes. */
internal fun isInnerPath(path: String): Boolean = PATH.matches(path)

/** Whether this is a SHA-256 in lower-case hex. */
internal fun isSha256(text: String): Boolean = SHA256.matches(text)

internal fun sha256(bytes: ByteArray): String = hex(MessageDigest.getInstance("SHA-256").digest(bytes))

internal fun hex(bytes: ByteArray): String = buildString(2 * bytes.size) {
    for (byte in bytes) append("0123456789abcdef"[byte.toInt() shr 4 and 15]).append("0123456789abcdef"[byte.toInt() and 15])
}

/** A UTF-8 text file. Errors: [VideoGptException.UnreadableFile], [VideoGptException.BadFile]. */
internal fun readText(file: File): String = try {
    Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(file.readBytes())).toString()
} catch (error: CharacterCodingException) {
    throw VideoGptException.BadFile("$file: is no UTF-8 text", error)
} catch (error: IOException) {
    throw VideoGptException.UnreadableFile("$file", error.message ?: "no reason given", error)
}

private fun Fields.manifest() = Manifest(
    schemaVersion = long("schema_version"),
    target = choice("target", listOf("executorch", "coreml", "onnx")),
    recipe = name("recipe"),
    recipeRules = tree("recipe_rules"),
    quantOverrides = texts("quant_overrides"),
    kernels = choice("kernels", listOf("stock", "fused")),
    customOperators = list("custom_operators", item = Fields.Companion::name),
    verified = flag("verified"),
    checkpointName = text("checkpoint_name"),
    checkpointFingerprint = name("checkpoint_fingerprint"),
    model = fields("model") { modelConfig() },
    graphs = map("graphs") { key, value, where ->
        if (key !in GRAPHS) throw JsonException("$where is not known to this version")
        Fields.of(value, where) { graph() }
    },
    decoder = fields("decoder") {
        DecoderInterface(choice("interface", listOf("internal", "coreml_state", "explicit")), int("max_context", 1), tree("details"))
    },
    preprocessing = fields("preprocessing") { preprocessing() },
    prompt = fields("prompt") {
        PromptTemplate(
            text("system"), text("user"), name("image"), name("end_of_turn"), text("assistant"), int("placeholder_id"),
            list("stop_ids") { value, where -> Fields.int(value, where, 0) },
        )
    },
    parity = list("parity") { value, where ->
        Fields.of(value, where) {
            StageParity(
                name("stage"), number("own_error"), number("chained_error"), number("threshold_own"), number("threshold_chained"),
                name("metric"), flag("passed"), text("note"),
            )
        }
    },
    accuracy = map("accuracy") { _, value, where -> Fields.number(value, where) },
    files = map("files") { key, value, where ->
        if (!isInnerPath(key)) Fields.refuse("a key of files", "a relative path inside the bundle", key)
        Fields.of(value, where) { FileEntry(hash("sha256"), long("bytes", 0)) }
    },
    expectedMemoryBytes = long("expected_memory_bytes", 0),
    bitsPerWeight = number("bits_per_weight", 0.0),
    bundleBytes = long("bundle_bytes", 0),
    toolVersions = texts("tool_versions"),
    created = matching("created", TIMESTAMP, "a UTC time like 2026-01-31T12:00:00Z"),
    licenses = texts("licenses"),
    digest = hash("manifest_sha256"),
)

private fun Fields.graph() = GraphEntry(
    name = name("name"),
    file = matching("file", PATH, "a relative path inside the bundle"),
    sha256 = hash("sha256"),
    bytes = long("bytes", 0),
    inputs = list("inputs", item = ::tensor),
    outputs = list("outputs", item = ::tensor),
    dynamicAxes = list("dynamic_axes") { value, where ->
        Fields.of(value, where) { DynamicAxis(name("name"), int("minimum", 0), int("maximum", 0)) }
    },
    schemes = list("schemes") { value, where ->
        Fields.of(value, where) { SchemeShare(name("scheme"), long("weights", 0), long("bytes", 0)) }
    },
    excluded = texts("excluded"),
    activations = text("activations"),
    delegated = number("delegated", 0.0, 1.0),
    operators = list("operators", item = Fields.Companion::name),
    peakMemoryBytes = long("peak_memory_bytes", 0),
    delegate = text("delegate"),
)

private fun tensor(value: Any?, where: String) = Fields.of(value, where) {
    TensorSpec(name("name"), list("shape", item = ::dimension), choice("dtype", DTYPES), text("description"))
}

private fun dimension(value: Any?, where: String): Dimension = when {
    value is String && AXIS.matches(value) -> Dimension(null, value)
    value is JsonNumber -> Dimension(Fields.int(value, where, 1), null)
    else -> Fields.refuse(where, "a size of 1 or more, or a dynamic axis's name", value)
}

private fun Fields.preprocessing() = Preprocessing(
    frames = int("frames", 1),
    imageSize = int("image_size", 1),
    imageMean = rgb("image_mean"),
    imageStd = rgb("image_std"),
    videoMean = rgb("video_mean"),
    videoStd = rgb("video_std"),
    chunkFrames = int("chunk_frames", 1),
    keyFramesPerChunk = int("key_frames_per_chunk", 1),
    topk = flag("topk"),
    tieTolerance = number("tie_tolerance", 0.0),
    imageResize = name("image_resize"),
    videoResize = name("video_resize"),
)

private fun Fields.texts(key: String): Map<String, String> = map(key) { _, value, where -> Fields.string(value, where) }

private fun Fields.rgb(key: String): List<Double> = list(key, 3) { value, where -> Fields.number(value, where) }

private fun Fields.hash(key: String): String = matching(key, SHA256, "a SHA-256 in lower-case hex")

/** What a type cannot say: all seven names, each under its own key, and axes that are declared and not empty. */
private fun checkGraphs(graphs: Map<String, GraphEntry>) {
    (GRAPHS - graphs.keys).firstOrNull()?.let { throw JsonException("graphs.$it is missing") }
    for ((key, graph) in graphs) {
        if (graph.name != key) Fields.refuse("graphs.$key.name", "'$key'", graph.name)
        val axes = graph.dynamicAxes.filter { it.minimum <= it.maximum }.map { it.name }
        val unknown = (graph.inputs + graph.outputs).flatMap { it.shape }.firstOrNull { it.axis != null && it.axis !in axes } ?: continue
        throw JsonException("graphs.$key: a shape names ${quoted(unknown.axis!!)}, but dynamic_axes has no such axis with a valid range")
    }
}
