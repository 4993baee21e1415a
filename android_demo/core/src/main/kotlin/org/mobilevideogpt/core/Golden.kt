package org.mobilevideogpt.core

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * The golden vectors that the build stores in a bundle (`golden.json`, `golden.bin`): what Python computes for given inputs. The
 * library's tests compare with them, and the self-test does so on the phone. `runtime_py/golden.py` writes them.
 */
class Golden private constructor(fields: Fields, arrays: Arrays) {
    class FramePicking(val total: Int, val fps: Double, val frames: Int, val indices: List<Int>)

    /** An image, and what the two resizers make of it. */
    class Resizing(val name: String, val source: RgbImage, val clip: RgbImage, val video: RgbImage)

    class Conversion(val name: String, val planes: Planes, val rgb: RgbImage)

    class KeyFrameChoice(val scores: Array<FloatArray>, val topk: Boolean, val count: Int, val selected: List<List<Int>>)

    /** [pieces] are what each id completes when it is streamed, [flushed] what remains at the end. */
    class Tokenization(val text: String, val ids: List<Int>, val pieces: List<String>, val flushed: String)

    class PromptIds(val question: String, val opening: List<Int>, val first: List<Int>, val later: List<Int>)

    class Greedy(val logits: FloatArray, val token: Int)

    class Nucleus(val logits: FloatArray, val temperature: Double, val topP: Double, val probabilities: List<Double>)

    /**
     * The whole pipeline: upright frames and a prompt's ids, and what the eager model makes of them. The error of [lastLogits] is the norm
     * of the difference by the norm of the reference ([metric] `row`), or the largest difference by the largest magnitude (`max`).
     * [equalIds]: greedy steps in which the bundle gave the model's id on the building machine, null where it did not run there.
     */
    class Reference(
        val frames: List<RgbImage>,
        val ids: IntArray,
        val selectedFrames: List<List<Int>>,
        val frameScores: FloatTensor,
        val greedyIds: IntArray,
        val lastLogits: FloatArray,
        val metric: String,
        val threshold: Double,
        val equalIds: Int?,
    )

    val pickFrames: List<FramePicking> = fields.cases("pick_frames") {
        FramePicking(int("total"), number("fps"), int("frames"), ints("indices"))
    }
    val resize: List<Resizing> = fields.cases("resize") {
        Resizing(text("name"), arrays.image(this, "source"), arrays.image(this, "clip"), arrays.image(this, "video"))
    }
    val planes: List<Conversion> = fields.cases("planes") { conversion(arrays) }
    val keyFrames: List<KeyFrameChoice> = fields.cases("key_frames") {
        val scores = list("scores") { row, where -> floats(row, where) }
        KeyFrameChoice(scores.toTypedArray(), flag("topk"), int("count"), rows("selected"))
    }

    /** Empty without a tokenizer, as [prompt]. */
    val tokenizer: List<Tokenization> = fields.optional("tokenizer") {
        Tokenization(text("text"), ints("ids"), list("pieces", item = Fields.Companion::string), text("flushed"))
    }
    val prompt: List<PromptIds> = fields.optional("prompt") {
        PromptIds(text("question"), ints("opening"), ints("first"), ints("later"))
    }
    val greedy: List<Greedy> = fields.cases("greedy") { Greedy(floats(get("logits"), place("logits")), int("token")) }
    val nucleus: List<Nucleus> = fields.cases("nucleus") {
        val probabilities = list("probabilities") { value, where -> Fields.number(value, where) }
        Nucleus(floats(get("logits"), place("logits")), number("temperature"), number("top_p"), probabilities)
    }
    val reference: Reference = fields.fields("reference") {
        Reference(
            arrays.images(this, "frames"), ints("ids").toIntArray(), rows("selected_frames"), arrays.floats(this, "frame_scores"),
            ints("greedy_ids").toIntArray(), arrays.floats(this, "last_logits").data, choice("metric", listOf("row", "max")),
            number("threshold"), get("equal_ids")?.let { Fields.int(it, place("equal_ids"), minimum = 0) },
        )
    }

    companion object {
        private const val VERSION = 1

        /** Errors: [VideoGptException.MissingFile], [VideoGptException.UnreadableFile], [VideoGptException.BadFile]. */
        fun read(folder: File): Golden {
            val file = File(folder, "golden.json")
            val binary = File(folder, "golden.bin")
            for (one in listOf(file, binary)) if (!one.isFile) throw VideoGptException.MissingFile("$one")
            return try {
                RandomAccessFile(binary, "r").use { bytes ->
                    Fields.of(parseJson(readText(file)), "") {
                        val version = int("version")
                        if (version != VERSION) throw JsonException("version is $version where this app reads $VERSION")
                        Golden(this, Arrays(bytes))
                    }
                }
            } catch (error: JsonException) {
                throw VideoGptException.BadFile("$file: ${error.message}")
            } catch (error: IOException) {
                throw VideoGptException.UnreadableFile("$binary", error.message ?: "no reason given", error)
            }
        }
    }
}

private fun Fields.conversion(arrays: Arrays): Golden.Conversion {
    val luma = arrays.bytes(this, "y", 2)
    val (u, v) = listOf("u", "v").map { arrays.bytes(this, it, 2) }
    val width = int("width", 1)
    val height = int("height", 1)
    if (luma.shape != listOf(height, width)) throw JsonException("${place("y")} has the shape ${luma.shape}")
    val matrix = ColorMatrix.valueOf(choice("matrix", ColorMatrix.entries.map { it.name.lowercase() }).uppercase())
    val full = choice("range", listOf("limited", "full")) == "full"
    val chroma = (width + 1) / 2
    if (u.shape != listOf((height + 1) / 2, chroma) || v.shape != u.shape) throw JsonException("${place("u")} has the shape ${u.shape}")
    val planes = Planes(
        width, height, ByteBuffer.wrap(luma.data), width, 1, ByteBuffer.wrap(u.data), ByteBuffer.wrap(v.data), chroma, 1, matrix, full,
        int("rotation"),
    )
    return Golden.Conversion(text("name"), planes, arrays.image(this, "rgb"))
}

private fun <T> Fields.cases(key: String, read: Fields.() -> T): List<T> = list(key) { value, where -> Fields.of(value, where, read) }

private fun <T> Fields.optional(key: String, read: Fields.() -> T): List<T> = if (has(key)) cases(key, read) else emptyList()

private fun Fields.ints(key: String): List<Int> = list(key) { value, where -> Fields.int(value, where) }

private fun Fields.rows(key: String): List<List<Int>> =
    list(key) { row, where -> Fields.list(row, where) { value, place -> Fields.int(value, place) } }

private fun floats(value: Any?, where: String): FloatArray =
    Fields.list(value, where) { one, place -> Fields.number(one, place).toFloat() }.toFloatArray()

/** The arrays of `golden.bin`: little endian, C order. */
private class Arrays(private val file: RandomAccessFile) {
    class Bytes(val data: ByteArray, val shape: List<Int>)

    /** The bytes of a `uint8` array with so many axes. */
    fun bytes(fields: Fields, key: String, axes: Int): Bytes = read(fields, key, "uint8", 1, axes)

    /** [H, W, 3] */
    fun image(fields: Fields, key: String): RgbImage = images(bytes(fields, key, 3), fields.place(key)).single()

    /** [n, H, W, 3] */
    fun images(fields: Fields, key: String): List<RgbImage> = images(bytes(fields, key, 4), fields.place(key))

    fun floats(fields: Fields, key: String): FloatTensor {
        val read = read(fields, key, "float32", 4, null)
        val data = FloatArray(read.data.size / 4)
        ByteBuffer.wrap(read.data).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(data)
        return FloatTensor(data, read.shape.toIntArray())
    }

    private fun images(bytes: Bytes, where: String): List<RgbImage> {
        val (height, width, channels) = bytes.shape.takeLast(3)
        val size = height * width * channels
        if (channels != 3 || size == 0) throw JsonException("$where has the shape ${bytes.shape}, which is no image's")
        return List(bytes.data.size / size) { RgbImage(width, height, bytes.data.copyOfRange(it * size, (it + 1) * size)) }
    }

    private fun read(fields: Fields, key: String, dtype: String, itemBytes: Int, axes: Int?): Bytes = fields.fields(key) {
        choice("dtype", listOf(dtype))
        val shape = list("shape", axes) { value, where -> Fields.int(value, where, 0) }
        val size = shape.fold(itemBytes.toLong()) { product, axis -> Math.multiplyExact(product, axis.toLong()) }
        val offset = long("offset", 0)
        if (size > Int.MAX_VALUE || offset > file.length() - size) throw JsonException("${place("shape")}: golden.bin is too short for it")
        file.seek(offset)
        Bytes(ByteArray(size.toInt()).also { file.readFully(it) }, shape)
    }
}
