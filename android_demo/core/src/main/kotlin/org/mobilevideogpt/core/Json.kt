package org.mobilevideogpt.core

import java.io.Reader
import java.io.StringReader

/** JSON that is not what it has to be. The message names the place; who reads a file puts the file's name before it. */
internal class JsonException(message: String) : Exception(message)

/** A number as it is written: what reads it decides whether it may be a fraction. */
internal class JsonNumber(val literal: String) {
    val isInteger: Boolean get() = literal.none { it == '.' || it == 'e' || it == 'E' }

    override fun toString(): String = literal
}

/**
 * Strict JSON (RFC 8259), pulled value by value: a tokenizer's hundred thousand merges need no tree.
 *
 * `org.json` is not strict: it takes comments, bare words and single quotes, differently on each version of Android, and forgets how
 * a number was written, which the manifest's digest depends on.
 */
internal class JsonReader(private val reader: Reader) {
    private val buffer = CharArray(1 shl 14)
    private var filled = 0
    private var next = 0
    private var line = 1
    private var depth = 0

    /** The next value as Map, List, String, [JsonNumber], Boolean or null. */
    fun value(): Any? = when (peek()) {
        '{' -> LinkedHashMap<String, Any?>().also { map ->
            readObject { key ->
                if (key in map) fail("the key ${quoted(key)} stands there twice")
                map[key] = value()
            }
        }
        '[' -> ArrayList<Any?>().also { list -> readArray { list += value() } }
        '"' -> string()
        else -> literal()
    }

    /** Calls [each] with every key of the object that comes next; it has to read the key's value. */
    fun readObject(each: (key: String) -> Unit) = readMembers('{', '}') {
        if (peek() != '"') fail("a key in double quotes must stand here")
        val key = string()
        take(':')
        each(key)
    }

    /** Calls [each] where every item of the array begins that comes next; it has to read it. */
    fun readArray(each: () -> Unit) = readMembers('[', ']', each)

    /** The string that comes next. */
    fun string(): String {
        take('"')
        val text = StringBuilder()
        while (true) {
            val c = char()
            when {
                c == '"' -> return text.toString()
                c == '\\' -> text.append(escaped())
                c < ' ' -> fail("a control character stands in a string")
                else -> text.append(c)
            }
        }
    }

    /** The integer that comes next. */
    fun int(): Int = (literal() as? JsonNumber)?.literal?.toIntOrNull() ?: fail("an integer must stand here")

    /** The first character of the next value, still to be read. */
    fun peek(): Char {
        while (true) {
            val c = look() ?: fail("the text ends too early")
            if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return c
            if (c == '\n') line++
            next++
        }
    }

    /** Checks that nothing follows. */
    fun end() {
        while (true) {
            val c = look() ?: return
            if (c != ' ' && c != '\t' && c != '\n' && c != '\r') fail("something follows the end")
            next++
        }
    }

    private fun readMembers(open: Char, close: Char, each: () -> Unit) {
        take(open)
        if (++depth > MAX_DEPTH) fail("it is nested too deeply")
        if (peek() == close) {
            next++
        } else {
            do {
                each()
                val c = peek()
                next++
                if (c != ',' && c != close) fail("',' or '$close' must stand here")
            } while (c == ',')
        }
        depth--
    }

    private fun literal(): Any? {
        peek()
        val text = StringBuilder()
        while (true) {
            val c = look()
            if (c == null || !(c in '0'..'9' || c in 'a'..'z' || c in 'A'..'Z' || c == '+' || c == '-' || c == '.')) break
            text.append(c)
            next++
        }
        return when (val word = text.toString()) {
            "true" -> true
            "false" -> false
            "null" -> null
            else -> if (NUMBER.matches(word)) JsonNumber(word) else fail("there is no value here")
        }
    }

    private fun escaped(): Char = when (val c = char()) {
        '"', '\\', '/' -> c
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> {
            val digits = String(CharArray(4) { char() })
            if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail("\\u$digits is no character")
            digits.toInt(16).toChar()
        }
        else -> fail("\\$c is no escape")
    }

    private fun take(c: Char) {
        if (peek() != c) fail("'$c' must stand here")
        next++
    }

    private fun char(): Char = (look() ?: fail("the text ends too early")).also { next++ }

    private fun look(): Char? {
        if (next == filled) {
            filled = reader.read(buffer)
            next = 0
            if (filled <= 0) {
                filled = 0
                return null
            }
        }
        return buffer[next]
    }

    private fun fail(what: String): Nothing = throw JsonException("not valid JSON, line $line: $what")

    private companion object {
        const val MAX_DEPTH = 100
        val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
    }
}

/** A whole text as a tree: see [JsonReader.value]. */
internal fun parseJson(text: String): Any? {
    val reader = JsonReader(StringReader(text))
    return reader.value().also { reader.end() }
}

/**
 * The canonical form of a tree: keys sorted, no spaces, ASCII only, numbers as they were written. It is Python's
 * `json.dumps(sort_keys=True, separators=(",", ":"))` of what Python's `json` wrote.
 */
internal fun canonicalJson(value: Any?): String = StringBuilder().also { appendCanonical(value, it) }.toString()

private fun appendCanonical(value: Any?, out: StringBuilder) {
    when (value) {
        is Map<*, *> -> {
            out.append('{')
            // UTF-16 order is Python's order of code points but for characters beyond U+FFFF, which no key of ours has.
            value.keys.map { it as String }.sorted().forEachIndexed { i, key ->
                if (i > 0) out.append(',')
                appendAscii(key, out)
                out.append(':')
                appendCanonical(value[key], out)
            }
            out.append('}')
        }
        is List<*> -> {
            out.append('[')
            value.forEachIndexed { i, item ->
                if (i > 0) out.append(',')
                appendCanonical(item, out)
            }
            out.append(']')
        }
        is String -> appendAscii(value, out)
        else -> out.append(value.toString()) // JsonNumber, true, false, null
    }
}

private fun appendAscii(text: String, out: StringBuilder) {
    out.append('"')
    for (c in text) {
        when {
            c == '"' || c == '\\' -> out.append('\\').append(c)
            c == '\n' -> out.append("\\n")
            c == '\r' -> out.append("\\r")
            c == '\t' -> out.append("\\t")
            c == '\b' -> out.append("\\b")
            c == '\u000c' -> out.append("\\f")
            c in ' '..'~' -> out.append(c)
            else -> out.append("\\u").append(c.code.toString(16).padStart(4, '0'))
        }
    }
    out.append('"')
}

/** A text as it may be shown in an error: short, and with nothing that plays tricks. */
internal fun quoted(text: String): String = "'" + text.take(60).map { if (it in ' '..'~') it else '?' }.joinToString("") + "'"
