package org.mobilevideogpt.core

import java.util.BitSet

/** What `tokenizer.json` says, read strictly: what this library would do otherwise than the file's own library is refused. */
internal class TokenizerFile(private val json: JsonReader) {
    var added: List<AddedToken> = emptyList() // the longest first
        private set
    var nfc = false
        private set
    var split: SplitPattern? = null
        private set
    var words: SplitPattern? = null
        private set
    var prefixSpace = false
        private set
    lateinit var pairs: BytePairs
        private set

    /** Ids of whole words in byte-level letters, where the file says that they go before merges. */
    var whole: Map<String, Int>? = null
        private set

    /** The id of each byte; -1 where there is none. */
    val byteIds: IntArray

    /** The bytes of each id. */
    val bytes: Array<ByteArray?>
    val special = BitSet()

    private val vocabulary = HashMap<String, Int>()

    init {
        var complete = 0
        json.readObject { key ->
            when (key) {
                "version" -> expect(json.value() == "1.0") { "version must be 1.0" }
                "added_tokens" -> added = addedTokens(json.value())
                "normalizer" -> nfc = normalizer(json.value())
                "pre_tokenizer" -> preTokenizer(json.value(), key).also { complete++ }
                "post_processor" -> json.value() // it adds special tokens, which prompts hold already, and counts characters
                "decoder" -> byteLevelDecoder(json.value()).also { complete++ }
                "model" -> model().also { complete++ }
                "truncation", "padding" -> expect(json.value() == null) { "$key is not supported: it must be null" }
                else -> throw JsonException("$key is not known to this version")
            }
        }
        json.end()
        expect(complete == 3) { "pre_tokenizer, decoder and model must all be there" }
        for (token in added) {
            val known = vocabulary[token.content]
            expect(known == null || known == token.id) { "the added token ${quoted(token.content)} has another id in the vocabulary" }
            if (token.special) special.set(token.id)
        }
        val tokens = vocabulary + added.associate { it.content to it.id }
        val last = tokens.values.maxOrNull() ?: throw JsonException("model.vocab is empty")
        bytes = arrayOfNulls(last + 1)
        for ((text, id) in tokens) bytes[id] = bytesOfByteLevel(text)
        byteIds = IntArray(256) { vocabulary[BYTE_LETTERS[it].toString()] ?: -1 }
        if (whole != null) whole = vocabulary
    }

    private fun addedTokens(value: Any?): List<AddedToken> = Fields.list(value, "added_tokens") { item, where ->
        Fields.of(item, where) {
            for (key in listOf("single_word", "lstrip", "rstrip")) {
                expect(!flag(key)) { "${place(key)}: added tokens that strip or stand alone are not supported" }
            }
            AddedToken(name("content"), id(get("id"), place("id")), flag("normalized"), flag("special"))
        }
    }.sortedByDescending { it.content.length }

    private fun normalizer(value: Any?): Boolean {
        if (value == null) return false
        return Fields.of(value, "normalizer") {
            val type = text("type")
            expect(type == "NFC") { "the normalizer ${quoted(type)} is not supported: only NFC and none are" }
            true
        }
    }

    private fun preTokenizer(value: Any?, where: String) {
        val type = Fields.of(value, where) { anyKeys().text("type") }
        when (type) {
            "ByteLevel" -> byteLevel(value, where)
            "Sequence" -> Fields.of(value, where) {
                text("type")
                val steps = list("pretokenizers") { step, place -> step to place }
                expect(steps.size == 2) { "$where: a sequence of Split and ByteLevel is supported, not of ${steps.size} steps" }
                splitStep(steps[0].first, steps[0].second)
                byteLevel(steps[1].first, steps[1].second)
            }
            else -> throw JsonException(
                "the pre-tokenizer ${quoted(type)} is not supported: only ByteLevel and a sequence that ends with it are",
            )
        }
    }

    private fun splitStep(value: Any?, where: String) = Fields.of(value, where) {
        choice("type", listOf("Split"))
        choice("behavior", listOf("Isolated"))
        expect(!flag("invert")) { "${place("invert")} is not supported" }
        fields("pattern") { split = SplitPattern(text("Regex")) }
    }

    private fun byteLevel(value: Any?, where: String) = Fields.of(value, where) {
        choice("type", listOf("ByteLevel"))
        prefixSpace = flag("add_prefix_space")
        if (has("trim_offsets")) flag("trim_offsets")
        if (!has("use_regex") || flag("use_regex")) words = SplitPattern(WORDS) // older files do not say it
    }

    private fun byteLevelDecoder(value: Any?) {
        val type = Fields.of(value, "decoder") { anyKeys().text("type") }
        expect(type == "ByteLevel") { "the decoder ${quoted(type)} is not supported: only ByteLevel is" }
    }

    private fun model() {
        var merged = false
        json.readObject { key ->
            when (key) {
                "type" -> expect(json.value() == "BPE") { "model.type must be BPE" }
                "vocab" -> json.readObject { token -> vocabulary[token] = id(json.value(), "model.vocab") }
                "merges" -> merges().also { merged = true }
                "ignore_merges" -> if (json.value() == true) whole = emptyMap()
                "fuse_unk" -> json.value() // says how unknown characters join: bytes are never unknown
                "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback" -> {
                    val value = json.value()
                    expect(value == null || value == false || value == "") { "model.$key is not supported" }
                }
                else -> throw JsonException("model.$key is not known to this version")
            }
        }
        expect(merged) { "model.merges is missing" }
    }

    private fun merges() {
        expect(vocabulary.isNotEmpty()) { "model.vocab must stand before model.merges" }
        val found = ArrayList<Int>(3 * vocabulary.size) // left, right, both
        json.readArray {
            val rank = found.size / 3
            val parts = ArrayList<String>(2)
            if (json.peek() == '[') json.readArray { parts += json.string() } else parts += json.string().split(' ')
            expect(parts.size == 2) { "model.merges[$rank] must be a pair" }
            for (part in listOf(parts[0], parts[1], parts[0] + parts[1])) {
                found += vocabulary[part] ?: throw JsonException("model.merges[$rank]: ${quoted(part)} is not in the vocabulary")
            }
        }
        pairs = BytePairs(found.size / 3)
        for (rank in 0 until found.size / 3) pairs.add(found[3 * rank], found[3 * rank + 1], rank, found[3 * rank + 2])
    }

    private fun id(value: Any?, where: String): Int =
        Fields.int(value, where, 0).also { expect(it < MOST_IDS) { "$where: there is an id of $it" } }

    private companion object {
        const val MOST_IDS = 1 shl 22

        /** GPT-2's pattern, which `ByteLevel` splits by unless the file says otherwise. */
        const val WORDS = """'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

        inline fun expect(holds: Boolean, says: () -> String) {
            if (!holds) throw JsonException(says())
        }
    }
}

/** The letter that stands for each byte in a byte-level vocabulary (GPT-2): visible ones for themselves, the others from U+0100 on. */
private val BYTE_LETTERS: CharArray = CharArray(256).also { letters ->
    var next = 0x100
    for (byte in 0..255) {
        val visible = byte in 0x21..0x7e || byte in 0xa1..0xac || byte in 0xae..0xff
        letters[byte] = if (visible) byte.toChar() else (next++).toChar()
    }
}

private val LETTER_BYTES: Map<Char, Byte> = BYTE_LETTERS.indices.associate { BYTE_LETTERS[it] to it.toByte() }

/** Bytes in the letters of the vocabulary. */
internal fun byteLevelText(bytes: ByteArray): String = String(CharArray(bytes.size) { BYTE_LETTERS[bytes[it].toInt() and 255] })

/** The bytes that a token of the vocabulary stands for; a token with other letters, as an added one may be, is its own text. */
private fun bytesOfByteLevel(token: String): ByteArray {
    val bytes = ByteArray(token.length)
    for ((i, letter) in token.withIndex()) bytes[i] = LETTER_BYTES[letter] ?: return token.toByteArray(Charsets.UTF_8)
    return bytes
}
