package org.mobilevideogpt.core

/**
 * UTF-8 as text, where each longest beginning of a character that does not go on becomes one U+FFFD (Unicode's recommended practice,
 * and what Python's tokenizers do). Written out, because Java's and Android's decoders have not always agreed on how many there are.
 */
internal fun decodeUtf8(bytes: ByteArray, count: Int = bytes.size): String {
    val text = StringBuilder(count)
    var at = 0
    while (at < count) {
        val lead = bytes[at++].toInt() and 255
        val following = when (lead) {
            in 0x00..0x7f -> 0
            in 0xc2..0xdf -> 1
            in 0xe0..0xef -> 2
            in 0xf0..0xf4 -> 3
            else -> -1
        }
        if (following <= 0) {
            text.append(if (following == 0) lead.toChar() else REPLACEMENT)
            continue
        }
        var codePoint = lead and (0x3f shr following)
        var read = 0
        while (read < following && at < count) {
            val next = bytes[at].toInt() and 255
            // The second byte's limits keep out overlong forms, surrogates and what lies beyond U+10FFFF.
            val least = if (read > 0) 0x80 else if (lead == 0xe0) 0xa0 else if (lead == 0xf0) 0x90 else 0x80
            val most = if (read > 0) 0xbf else if (lead == 0xed) 0x9f else if (lead == 0xf4) 0x8f else 0xbf
            if (next < least || next > most) break
            codePoint = (codePoint shl 6) or (next and 0x3f)
            at++
            read++
        }
        if (read == following) text.appendCodePoint(codePoint) else text.append(REPLACEMENT)
    }
    return text.toString()
}

/** The code points of a text; half a surrogate pair, which is no character, becomes U+FFFD. */
internal fun codePointsOf(text: String): IntArray {
    val points = IntArray(text.length)
    var count = 0
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        at += Character.charCount(point)
        points[count++] = if (point in 0xd800..0xdfff) REPLACEMENT.code else point
    }
    return points.copyOf(count)
}

/** UTF-8 of code points, none of them half a surrogate pair. */
internal fun encodeUtf8(points: IntArray, begin: Int, end: Int): ByteArray = String(points, begin, end - begin).toByteArray(Charsets.UTF_8)

internal const val REPLACEMENT = '\ufffd'
