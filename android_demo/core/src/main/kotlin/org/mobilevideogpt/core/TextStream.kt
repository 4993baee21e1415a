package org.mobilevideogpt.core

/**
 * Ids in, text out, in pieces that hold whole characters only. All pieces together are the text of all ids.
 *
 * Bytes that do not yet make a character wait for the next ids; special tokens have no text.
 */
class TextStream(private val tokenizer: Tokenizer) {
    private var waiting = ByteArray(0)

    /** The text that this id completes, often the empty string. */
    fun step(id: Int): String {
        val bytes = tokenizer.bytesOf(id) ?: return ""
        waiting += bytes
        val text = decodeUtf8(waiting)
        // A text that ends in U+FFFD may end in half a character: as Python's, it waits as a whole.
        if (text.isEmpty() || text.last() == REPLACEMENT) return ""
        waiting = ByteArray(0)
        return text
    }

    /** What still waits when no id follows: bytes that stayed half a character become U+FFFD. */
    fun flush(): String = decodeUtf8(waiting).also { waiting = ByteArray(0) }
}
