package org.mobilevideogpt.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class JsonTest {
    @Test
    fun `values are what they are, numbers as they are written`() {
        val text = """ {"a": [1, -2.5e-05, 1E+2, true, false, null, "\u00e4\ud83d\ude00\n\"\\\/"], "b": {}, "": []} """
        val tree = parseJson(text) as Map<*, *>
        val items = tree["a"] as List<*>
        assertEquals(listOf("1", "-2.5e-05", "1E+2"), items.take(3).map { it.toString() })
        assertEquals(listOf(true, false, null, "ä😀\n\"\\/"), items.drop(3))
        assertEquals(setOf("a", "b", ""), tree.keys)
    }

    @Test
    fun `the canonical form is Python's`() {
        val tree = parseJson("""{"b": {"z": 1e-05, "a": "ä\u007f\u0000\t"}, "a": [true, null, 300]}""")
        assertEquals("""{"a":[true,null,300],"b":{"a":"\u00e4\u007f\u0000\t","z":1e-05}}""", canonicalJson(tree))
    }

    @Test
    fun `what is no JSON is refused with its line`() {
        val broken = listOf(
            "", "{", "[1,]", "{'a': 1}", "{a: 1}", "[01]", "[+1]", "[.5]", "[1.]", "[NaN]", "[Infinity]", "[1] 2", "{\"a\": 1, \"a\": 2}",
            "[\"\\x\"]", "[\"\\u12g4\"]", "[\"a\nb\"]", "// no\n[]", "[tru]", "{\"a\" 1}", "\"open",
        )
        for (text in broken) {
            val message = thrown<JsonException> { parseJson(text) }.message!!
            assertTrue("$text: $message", message.startsWith("not valid JSON, line "))
        }
        val deep = thrown<JsonException> { parseJson("[".repeat(100_000)) }.message!!
        assertTrue(deep, "nested too deeply" in deep)
        assertTrue("line 3" in thrown<JsonException> { parseJson("[1,\n2,\nx]") }.message!!)
    }
}
