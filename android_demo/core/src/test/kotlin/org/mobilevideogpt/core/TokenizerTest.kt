package org.mobilevideogpt.core

import java.io.File
import java.io.StringReader
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Test

class TokenizerTest {
    private val file = File(folders("bundle").single(), "tokenizer.json")
    private val text = file.readText()
    private val tokenizer = Tokenizer.read(file)

    @Test
    fun `special tokens have ids and no text`() {
        val ids = tokenizer.encode("a<|im_end|>b")
        assertEquals(3, ids.size)
        assertNull(tokenizer.bytesOf(ids[1]))
        assertNull(tokenizer.bytesOf(-200))
        assertNull(tokenizer.bytesOf(1 shl 20))
        assertEquals("ab", tokenizer.decode(ids))
        assertEquals("ab", TextStream(tokenizer).let { stream -> ids.joinToString("") { stream.step(it) } + stream.flush() })
    }

    @Test
    fun `half a surrogate pair is no character`() {
        assertArrayEquals(tokenizer.encode("a\ufffdb"), tokenizer.encode("a\ud83db"))
        assertArrayEquals(tokenizer.encode("\ufffd"), tokenizer.encode("\ude00"))
    }

    @Test
    fun `half a character waits, and never is one`() {
        val ids = tokenizer.encode("😀").toList()
        val stream = TextStream(tokenizer)
        assertEquals("", stream.step(ids.first()))
        assertEquals("\ufffd", stream.flush())
        assertEquals("", stream.flush())
    }

    @Test
    fun `bytes that are no UTF-8 become as many signs as in Python`() {
        // Python: bytes.decode("utf-8", "replace")
        val cases = mapOf(
            "41 ff 42" to "A\ufffdB", "e2 82" to "\ufffd", "e2 82 41" to "\ufffdA", "f0 9f 98" to "\ufffd", "f0 9f 41" to "\ufffdA",
            "c0 80" to "\ufffd\ufffd", "ed a0 80" to "\ufffd\ufffd\ufffd", "f4 90 80 80" to "\ufffd\ufffd\ufffd\ufffd",
            "f0 80 80 80" to "\ufffd\ufffd\ufffd\ufffd", "e0 9f bf" to "\ufffd\ufffd\ufffd", "80 80" to "\ufffd\ufffd",
            "f0 9f 98 80" to "😀", "ef bf bd" to "\ufffd", "c3 a4 c3" to "ä\ufffd",
        )
        for ((bytes, expected) in cases) {
            assertEquals(bytes, expected, decodeUtf8(bytes.split(' ').map { it.toInt(16).toByte() }.toByteArray()))
        }
    }

    @Test
    fun `merges may be strings`() {
        val pair = Regex("""\[\s*"((?:[^"\\]|\\.)*)",\s*"((?:[^"\\]|\\.)*)"\s*]""")
        val head = text.substringBefore("\"merges\"")
        val tail = text.substringAfter("\"merges\"").replace(pair) { "\"${it.groupValues[1]} ${it.groupValues[2]}\"" }
        val strings = "$head\"merges\"$tail"
        val other = Tokenizer.read(StringReader(strings), "strings")
        assertEquals(1, Regex("\"merges\"\\s*:\\s*\\[\\s*\"").findAll(strings).count())
        for (sample in listOf("Which appears first, the circle?", " a  b\n", "日本語")) {
            assertArrayEquals(tokenizer.encode(sample), other.encode(sample))
        }
    }

    @Test
    fun `ByteLevel alone splits by its own pattern and may add a blank`() {
        fun small(blank: Boolean) = Tokenizer.read(
            StringReader(
                """{"version": "1.0", "added_tokens": [{"id": 6, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": false}], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": $blank},
                "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "Ġ": 1, "Ġa": 2, "b": 3, "ab": 4, "1": 5},
                "merges": ["Ġ a", "a b"]}}""",
            ),
            "small",
        )
        assertArrayEquals(intArrayOf(4, 2, 3), small(blank = false).encode("ab ab"))
        assertArrayEquals(intArrayOf(2, 3, 2, 3), small(blank = true).encode("ab ab"))
        assertArrayEquals("letters and digits are two words", intArrayOf(0, 5, 0), small(blank = false).encode("a1a"))
        assertArrayEquals("a byte without an id is left out", intArrayOf(4), small(blank = false).encode("axb"))
        assertArrayEquals(intArrayOf(0, 6, 3), small(blank = false).encode("a<x>b"))
        assertEquals("a<x>b", small(blank = false).decode(intArrayOf(0, 6, 3)))
    }

    @Test
    fun `whole words may go before merges`() {
        val json = """{"version": "1.0", "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3},
            "merges": ["a b"]}}"""
        assertArrayEquals(intArrayOf(3), Tokenizer.read(StringReader(json), "x").encode("abb"))
        val plain = json.replace("\"ignore_merges\": true", "\"ignore_merges\": false")
        assertArrayEquals(intArrayOf(2, 1), Tokenizer.read(StringReader(plain), "x").encode("abb"))
    }

    @Test
    fun `what is not supported is refused, not guessed`() {
        refused("\"BPE\"" to "\"Unigram\"", "model.type must be BPE")
        refused("\"unk_token\": null" to "\"unk_token\": \"<unk>\"", "model.unk_token is not supported")
        refused("\"byte_fallback\": false" to "\"byte_fallback\": true", "model.byte_fallback is not supported")
        refused("\"truncation\": null" to "\"truncation\": {}", "truncation is not supported")
        refused("\"normalizer\": null" to "\"normalizer\": {\"type\": \"Lowercase\"}", "the normalizer 'Lowercase' is not supported")
        refused("\"behavior\": \"Isolated\"" to "\"behavior\": \"Removed\"", "behavior must be one of Isolated")
        refused("\"invert\": false" to "\"invert\": true", "pre_tokenizer.pretokenizers[0].invert is not supported")
        refused("\"lstrip\": false" to "\"lstrip\": true", "added_tokens[0].lstrip: added tokens that strip")
        refused("\"Split\"" to "\"Digits\"", "type")
        refused("|\\\\p{N}|" to "|\\\\p{Lu}|", "of the pattern")
        refused("\"version\": \"1.0\"" to "\"version\": \"2.0\"", "version must be 1.0")
        refused("\"version\": \"1.0\"," to "\"version\": \"1.0\", \"colour\": 1,", "colour is not known")
        refused("\"merges\"" to "\"merge\"", "model.merge is not known")
    }

    @Test
    fun `a file that is none is named`() {
        says(thrown<VideoGptException.MissingFile> { Tokenizer.read(File("none.json")) }, "none.json", "is missing")
        val cut = thrown<VideoGptException.BadFile> { Tokenizer.read(StringReader(text.dropLast(9)), "cut.json") }
        says(cut, "cut.json: not valid JSON, line")
    }

    @Test
    fun `a pattern's syntax is taken or refused`() {
        assertEquals(listOf("ab", "AB", "c", "aB"), pieces("(?i:ab)|[a-c]", "abABcaB"))
        assertEquals(listOf("123", "45", "x", "6"), pieces("\\p{N}{1,3}|x", "12345x6"))
        assertEquals(listOf("12", "34", "5"), pieces("[0-9]{2}", "12345"))
        assertEquals(listOf("  ", " a", " "), pieces("\\s+(?!\\S)| ?\\p{L}+|\\s+", "   a "))
        assertEquals(listOf("-", "]", "a"), pieces("[\\-\\]]", "-]a"))
        assertEquals(listOf("'s", "'ſ", "'S"), pieces("(?i:'s)", "'s'ſ'S"))
        val others = listOf(
            "(a", "a)", "[a", "a**", "a+?", "a++", "(?<x>a)", "(a)", "\\w", "\\p{Lu}", "^a", "a$", "a.b", "[a&&b]",
            "(?:a)+", "{2}", "a{2,1}",
        )
        for (pattern in others) {
            val error = thrown<JsonException> { SplitPattern(pattern) }
            assertEquals(pattern, true, "of the pattern" in error.message!!)
        }
    }

    private fun pieces(pattern: String, text: String): List<String> {
        val points = codePointsOf(text)
        val found = ArrayList<String>()
        SplitPattern(pattern).split(points) { begin, end -> found += String(points, begin, end - begin) }
        return found
    }

    /** What reading says once the file has another text in a place. */
    private fun refused(change: Pair<String, String>, says: String) {
        val place = text.replace(Regex("(?<=[\\[{,:])\\s+"), " ").replace(Regex("\\s+(?=[]}])"), "")
        val changed = place.replaceFirst(change.first, change.second)
        assertEquals("the file has no ${change.first}", false, changed == place)
        says(thrown<VideoGptException.BadFile> { Tokenizer.read(StringReader(changed), "changed.json") }, "changed.json", says)
    }
}
