package org.mobilevideogpt.core

import java.io.File
import java.io.IOException
import java.io.Reader
import java.text.Normalizer

/**
 * Byte-level BPE from a `tokenizer.json` of the `tokenizers` library: ids equal that library's, special tokens that are not in the text
 * not added.
 *
 * Read are: the normalizers NFC and none; the pre-tokenizers `ByteLevel`, and a sequence of `Split` by a pattern and `ByteLevel`; merges
 * as strings or as pairs; added tokens without stripping. NFC is the platform's, whose Unicode may be older than the file's.
 */
class Tokenizer private constructor(file: TokenizerFile) {
    private val added = file.added.filter { !it.normalized }
    private val addedNormalized = file.added.filter { it.normalized }
    private val nfc = file.nfc
    private val split = file.split
    private val words = file.words
    private val prefixSpace = file.prefixSpace
    private val pairs = file.pairs
    private val whole = file.whole
    private val byteIds = file.byteIds
    private val bytes = file.bytes
    private val special = file.special

    /** Ids of a text; control tokens in it become their ids. */
    fun encode(text: String): IntArray {
        val ids = ArrayList<Int>()
        val clean = codePointsOf(text).let { String(it, 0, it.size) }
        splitAtTokens(clean, added, ids) { raw ->
            val normal = if (nfc) Normalizer.normalize(raw, Normalizer.Form.NFC) else raw
            splitAtTokens(normal, addedNormalized, ids) { encodePlain(it, ids) }
        }
        return ids.toIntArray()
    }

    /** The text of ids; special tokens have none, and bytes that are no character become U+FFFD. */
    fun decode(ids: IntArray): String {
        val parts = ids.map { bytesOf(it) ?: NOTHING }
        val all = ByteArray(parts.sumOf { it.size })
        var at = 0
        for (part in parts) {
            part.copyInto(all, at)
            at += part.size
        }
        return decodeUtf8(all)
    }

    /** The UTF-8 bytes of an id, which need not be whole characters; null for a special token, and for an id that is none. */
    fun bytesOf(id: Int): ByteArray? = if (id in bytes.indices && !special[id]) bytes[id] else null

    /** Finds added tokens from left to right, the longest of those that begin together, and gives the text between them to [between]. */
    private fun splitAtTokens(text: String, tokens: List<AddedToken>, ids: MutableList<Int>, between: (String) -> Unit) {
        var begin = 0
        var at = 0
        while (at < text.length && tokens.isNotEmpty()) {
            val found = tokens.firstOrNull { text.startsWith(it.content, at) } // the longest stand first
            if (found == null) {
                at++
                continue
            }
            if (begin < at) between(text.substring(begin, at))
            ids += found.id
            at += found.content.length
            begin = at
        }
        if (begin < text.length) between(text.substring(begin))
    }

    private fun encodePlain(text: String, ids: MutableList<Int>) {
        val points = codePointsOf(text)
        if (split == null) return encodeSplit(points, ids)
        split.split(points) { begin, end -> encodeSplit(points.copyOfRange(begin, end), ids) }
    }

    private fun encodeSplit(piece: IntArray, ids: MutableList<Int>) {
        val points = if (prefixSpace && piece[0] != ' '.code) intArrayOf(' '.code, *piece) else piece
        if (words == null) return encodeWord(encodeUtf8(points, 0, points.size), ids)
        words.split(points) { begin, end -> encodeWord(encodeUtf8(points, begin, end), ids) }
    }

    private fun encodeWord(word: ByteArray, ids: MutableList<Int>) {
        whole?.get(byteLevelText(word))?.let { return ids.plusAssign(it) }
        // A byte without an id is left out, as the library leaves it out.
        val symbols = IntArray(word.size) { byteIds[word[it].toInt() and 255] }.filter { it >= 0 }.toIntArray()
        pairs.merge(symbols).forEach { ids += it }
    }

    companion object {
        private val NOTHING = ByteArray(0)

        /**
         * Errors: [VideoGptException.BadFile] where the file is no such tokenizer, [VideoGptException.MissingFile],
         * [VideoGptException.UnreadableFile].
         */
        fun read(file: File): Tokenizer {
            if (!file.isFile) throw VideoGptException.MissingFile("$file")
            return try {
                file.bufferedReader().use { read(it, "$file") }
            } catch (error: IOException) {
                throw VideoGptException.UnreadableFile("$file", error.message ?: "no reason given", error)
            }
        }

        /** The same from text; [name] is the file's in errors. */
        fun read(text: Reader, name: String): Tokenizer = try {
            Tokenizer(TokenizerFile(JsonReader(text)))
        } catch (error: JsonException) {
            throw VideoGptException.BadFile("$name: ${error.message}")
        }
    }
}

internal class AddedToken(val content: String, val id: Int, val normalized: Boolean, val special: Boolean)
