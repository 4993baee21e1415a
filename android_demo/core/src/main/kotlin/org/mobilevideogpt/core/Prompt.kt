package org.mobilevideogpt.core

/**
 * The prompt of the release: ChatML around the visual placeholders, tokenized piece by piece. [template] comes from the manifest;
 * [frames] marks stand for the video, each of which becomes one placeholder id.
 */
class Prompt(private val template: PromptTemplate, private val frames: Int = FRAMES) {

    /** The text of a conversation's first turn, up to where the answer begins. */
    fun firstTurn(question: String): String = with(template) {
        "$system$user${image.repeat(frames)}\n${escape(question)}$endOfTurn\n$assistant"
    }

    /** The text after an answer, whose own end-of-turn token is not in the cache yet, up to the next answer. */
    fun nextTurn(question: String): String = with(template) { "$endOfTurn\n$user${escape(question)}$endOfTurn\n$assistant" }

    /** A user's text with the control tokens taken out: it must not open a turn or stand for a picture. */
    fun escape(question: String): String =
        (listOf(template.image) + CONTROLS + template.endOfTurn).fold(question) { text, control -> text.replace(control, " ") }

    /** Ids of a prompt: each piece between the marks is tokenized on its own, each mark becomes the placeholder's id. */
    fun tokenize(text: String, encode: (String) -> IntArray): IntArray {
        val ids = ArrayList<Int>()
        text.split(template.image).forEachIndexed { i, piece ->
            if (i > 0) ids += template.placeholderId
            if (piece.isNotEmpty()) encode(piece).forEach { ids += it }
        }
        return ids.toIntArray()
    }

    /** The ids before and after the run of placeholders. Errors: [VideoGptException.BadPrompt] where there is not one run. */
    fun splitAtVisualTokens(ids: IntArray): Pair<IntArray, IntArray> {
        val placeholder = template.placeholderId
        val first = ids.indexOf(placeholder)
        val last = ids.lastIndexOf(placeholder)
        if (first < 0) {
            throw VideoGptException.BadPrompt("the prompt has no visual placeholder (id $placeholder): put one where the video belongs")
        }
        if (last - first + 1 != ids.count { it == placeholder }) {
            throw VideoGptException.BadPrompt("the visual placeholders (id $placeholder) must stand in one run")
        }
        return ids.copyOfRange(0, first) to ids.copyOfRange(last + 1, ids.size)
    }

    /** The ids before the visual tokens, the same in every first turn. */
    fun openingIds(encode: (String) -> IntArray): IntArray = splitAtVisualTokens(tokenize(firstTurn(""), encode)).first

    /** The ids behind the visual tokens of a first turn. */
    fun questionIds(question: String, encode: (String) -> IntArray): IntArray =
        splitAtVisualTokens(tokenize(firstTurn(question), encode)).second

    /** The ids of a later turn. */
    fun laterIds(question: String, encode: (String) -> IntArray): IntArray = tokenize(nextTurn(question), encode)

    private companion object {
        val CONTROLS = listOf("<|im_start|>", "<|im_end|>", "<|endoftext|>") // as export/model/prompt.py has them
    }
}
