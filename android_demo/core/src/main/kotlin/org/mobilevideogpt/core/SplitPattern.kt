package org.mobilevideogpt.core

/**
 * The regular expression by which a tokenizer splits a text into words, as `tokenizer.json` gives it.
 *
 * It is matched here and not by `java.util.regex`, because that is another engine on Android (ICU) than on the JVM: `\s`, `(?i)` and
 * the letters of `\p{L}` differ, and each difference is another id. What such patterns use is taken: alternatives, groups `(?:)` and
 * `(?i:)`, lookaheads, `\p{L}`, `\p{N}`, `\s` and their opposites, classes, and greedy counts behind single characters.
 *
 * Errors of the constructor: [JsonException] for anything else.
 */
internal class SplitPattern(pattern: String) {
    private val alternatives: List<List<Part>> = Parser(pattern).whole()

    /** Calls [piece] with begin and end of every match and of what stands between matches, in order; none is empty. */
    fun split(text: IntArray, piece: (begin: Int, end: Int) -> Unit) {
        var begin = 0 // of what no match took yet
        var at = 0
        while (at < text.size) {
            val end = matchAny(alternatives, text, at) { it }
            if (end <= at) {
                at++
                continue
            }
            if (begin < at) piece(begin, at)
            piece(at, end)
            at = end
            begin = end
        }
        if (begin < text.size) piece(begin, text.size)
    }

    private sealed interface Part

    /** A character of a set, [least] to [most] times. */
    private class Characters(val set: (Int) -> Boolean, val least: Int, val most: Int) : Part

    private class Group(val alternatives: List<List<Part>>, val optional: Boolean) : Part

    private class Lookahead(val alternatives: List<List<Part>>, val wanted: Boolean) : Part

    /** Where the first alternative ends behind which [next] agrees; -1 where none does. `next` gives the end of the whole, or -1. */
    private fun matchAny(alternatives: List<List<Part>>, text: IntArray, at: Int, next: (Int) -> Int): Int {
        for (alternative in alternatives) {
            val end = match(alternative, 0, text, at, next)
            if (end >= 0) return end
        }
        return -1
    }

    private fun match(parts: List<Part>, index: Int, text: IntArray, at: Int, next: (Int) -> Int): Int {
        if (index == parts.size) return next(at)
        val rest = { end: Int -> match(parts, index + 1, text, end, next) }
        return when (val part = parts[index]) {
            is Characters -> {
                var end = at
                while (end < text.size && end - at < part.most && part.set(text[end])) end++
                while (end - at >= part.least) {
                    val whole = rest(end)
                    if (whole >= 0) return whole
                    end--
                }
                -1
            }
            is Group -> matchAny(part.alternatives, text, at, rest).let { if (it < 0 && part.optional) rest(at) else it }
            is Lookahead -> if ((matchAny(part.alternatives, text, at) { it } >= 0) == part.wanted) rest(at) else -1
        }
    }

    private class Parser(private val pattern: String) {
        private var next = 0

        fun whole(): List<List<Part>> = alternatives(ignoreCase = false).also { if (next < pattern.length) refuse() }

        private fun alternatives(ignoreCase: Boolean): List<List<Part>> {
            val found = arrayListOf<ArrayList<Part>>(arrayListOf())
            while (next < pattern.length && pattern[next] != ')') {
                if (take("|")) found += arrayListOf<Part>() else found.last() += part(ignoreCase)
            }
            return found
        }

        private fun part(ignoreCase: Boolean): Part = when {
            take("(?:") -> group(ignoreCase)
            take("(?i:") -> group(ignoreCase = true)
            take("(?!") -> Lookahead(closed(ignoreCase), wanted = false)
            take("(?=") -> Lookahead(closed(ignoreCase), wanted = true)
            else -> {
                val set = characters(ignoreCase)
                val (least, most) = count()
                Characters(set, least, most)
            }
        }

        private fun group(ignoreCase: Boolean): Part {
            val inner = closed(ignoreCase)
            val (least, most) = count()
            if (most != 1) refuse()
            return Group(inner, optional = least == 0)
        }

        private fun closed(ignoreCase: Boolean): List<List<Part>> = alternatives(ignoreCase).also { if (!take(")")) refuse() }

        private fun characters(ignoreCase: Boolean): (Int) -> Boolean = when {
            take("[") -> characterClass(ignoreCase)
            take("\\") -> escaped() ?: single(escapedCharacter(), ignoreCase)
            pattern[next] in "(*+?{^$." -> refuse()
            else -> single(character(), ignoreCase)
        }

        private fun characterClass(ignoreCase: Boolean): (Int) -> Boolean {
            val negated = take("^")
            val members = ArrayList<(Int) -> Boolean>()
            do {
                if (next >= pattern.length || pattern[next] == '[' || pattern.startsWith("&&", next)) refuse()
                members += if (take("\\")) escaped() ?: range(escapedCharacter(), ignoreCase) else range(character(), ignoreCase)
            } while (!take("]"))
            return { c -> members.any { it(c) } != negated }
        }

        private fun range(first: Int, ignoreCase: Boolean): (Int) -> Boolean {
            if (!pattern.startsWith("-", next) || pattern.startsWith("-]", next)) return single(first, ignoreCase)
            take("-")
            val last = if (take("\\")) escapedCharacter() else character()
            if (last < first || ignoreCase) refuse()
            return { it in first..last }
        }

        /** The set behind a backslash; null, and nothing read, where it is a single character. */
        private fun escaped(): ((Int) -> Boolean)? = when {
            take("s") -> { c -> c in CodePoints.SPACES }
            take("S") -> { c -> c !in CodePoints.SPACES }
            take("p{L}") -> { c -> c in CodePoints.LETTERS }
            take("P{L}") -> { c -> c !in CodePoints.LETTERS }
            take("p{N}") -> { c -> c in CodePoints.NUMBERS }
            take("P{N}") -> { c -> c !in CodePoints.NUMBERS }
            else -> null
        }

        private fun escapedCharacter(): Int = when {
            take("r") -> '\r'.code
            take("n") -> '\n'.code
            take("t") -> '\t'.code
            next < pattern.length && pattern[next] in "\\/'\"()[]{}*+?|^$.-#&~ " -> character()
            else -> refuse()
        }

        private fun single(wanted: Int, ignoreCase: Boolean): (Int) -> Boolean {
            if (!ignoreCase) return { it == wanted }
            val folded = folded(wanted)
            return { folded(it) == folded }
        }

        private fun count(): Pair<Int, Int> {
            val found = when {
                take("*") -> 0 to Int.MAX_VALUE
                take("+") -> 1 to Int.MAX_VALUE
                take("?") -> 0 to 1
                take("{") -> bounds()
                else -> return 1 to 1
            }
            if (next < pattern.length && pattern[next] in "*+?{") refuse() // lazy, possessive
            return found
        }

        private fun bounds(): Pair<Int, Int> {
            val end = pattern.indexOf('}', next)
            val numbers = if (end < 0) null else COUNT.matchEntire(pattern.substring(next, end))
            val (least, comma, most) = numbers?.destructured ?: refuse()
            next = end + 1
            val from = least.toInt()
            val to = if (comma.isEmpty()) from else if (most.isEmpty()) Int.MAX_VALUE else most.toInt()
            return if (to in maxOf(from, 1)..Int.MAX_VALUE) from to to else refuse()
        }

        private fun character(): Int {
            if (next >= pattern.length) refuse()
            return pattern.codePointAt(next).also { next += Character.charCount(it) }
        }

        private fun take(text: String): Boolean = pattern.startsWith(text, next).also { if (it) next += text.length }

        private fun refuse(): Nothing =
            throw JsonException("not supported: what stands at ${quoted(pattern.drop(next).take(12))} of the pattern ${quoted(pattern)}")
    }

    private companion object {
        val COUNT = Regex("([0-9]{1,4})(,?)([0-9]{0,4})")

        /** Simple case folding; of the dotted and the dotless i, which fold to none of the others, nothing changes. */
        fun folded(c: Int): Int = if (c == 0x130 || c == 0x131) c else Character.toLowerCase(Character.toUpperCase(c))
    }
}
