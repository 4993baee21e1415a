package org.mobilevideogpt.core

/** The release's limit of an answer. */
const val MAX_NEW_TOKENS = 1024

/** Tokens that forgetting leaves for an answer. */
const val ANSWER_ROOM = 128

/**
 * A conversation about one video: watch, ask, ask again. It knows no runtime. [encode] turns text into ids; without it only ids can be
 * asked. [clock] gives nanoseconds. One thread at a time.
 *
 * The decoder's cache holds the conversation so far; a later question prefills its own tokens only. What stands before the first
 * question, the system's words and the video, is the same in every conversation: it is prefilled once, others begin behind it
 * ([startOver]).
 *
 * When a question does not leave room for an answer any more, the oldest turns are forgotten: the video stays, and as many of the last
 * turns as leave that room; [forgotten] counts the others. What is kept is fed in as the ids that were fed and chosen before.
 *
 * The graphs that watched a clip are freed until the next one: a conversation runs in half the memory.
 */
class Session(
    private val backend: GraphBackend,
    private val encode: ((String) -> IntArray)?,
    private val clock: () -> Long = System::nanoTime,
) {
    private val config = backend.manifest.model
    private val prompt = Prompt(backend.manifest.prompt, backend.manifest.preprocessing.frames)
    private val stopIds = config.stopIds.toSet()
    private var visual: FloatTensor? = null // [V, D]
    private var opening: List<Int>? = null // the ids before the video, where the cache begins with them and the video
    private var held = Held()

    /** Seconds of each graph while watching, and of `loading` them. */
    val stagesSeconds: Map<String, Double> get() = watchingSeconds
    private var watchingSeconds: Map<String, Double> = emptyMap()

    /** Turns of this conversation that did not fit any more. */
    var forgotten = 0
        private set

    /** Tokens in the cache. */
    val position: Int get() = held.position

    /** Whether the conversation has as many tokens as the context. */
    val full: Boolean get() = held.position + held.unfed.size >= backend.maxContext

    /** Whether there is a clip to ask about. */
    val watched: Boolean get() = visual != null

    /** A question and its answer. [first]: how the question reads behind the video, [later]: behind another answer; one of them is
     * missing where the question was asked in ids. */
    private data class Turn(val first: List<Int>?, val later: List<Int>?, val answer: List<Int> = emptyList())

    /** What the cache holds, as one value, so that an interrupt finds it old or new: its tokens, those of the last answer that it does
     * not hold yet, and the conversation. */
    private data class Held(val position: Int = 0, val unfed: List<Int> = emptyList(), val turns: List<Turn> = emptyList())

    /**
     * Takes in a clip and begins a conversation. The pixels are not kept.
     *
     * Returns the key frames' indices, ascending, of 16: those beyond the frames that were sampled are padding.
     */
    fun watch(pixels: Pixels): IntArray {
        visual = null
        opening = null
        startOver()
        val seconds = LinkedHashMap<String, Double>()
        watchingSeconds = seconds
        val seen = visualTokens(TimedBackend(backend, seconds, clock), pixels)
        visual = seen.tokens
        backend.release(VISION)
        return seen.keyFrames(backend.manifest.preprocessing)
    }

    /** Puts the system's words and the video into the cache, ahead of the first question: while it is still being asked, say. */
    fun prefillVideo() {
        if (opening != null || position > 0) return
        val ids = prompt.openingIds(tokenizer())
        checkFits(backend, 0, ids.size + config.visualTokens)
        backend.decode(promptEmbeds(backend, ids, watchedTokens(), IntArray(0)), 0)
        opening = ids.toList()
    }

    /** The ids of a question in words, as the conversation's next turn.
     *
     * Errors: [VideoGptException.PromptTooLong] where they do not fit the context, even where all earlier turns are forgotten. */
    fun promptIds(question: String): IntArray = nextIds(turnOf(question)).toIntArray()

    /** Asks in words; the answer's ids come as they are asked for, and not asking on ends it. Where the question leaves no room for an
     * answer ([ANSWER_ROOM] tokens, or [maxNewTokens]), the oldest turns are forgotten first. Errors as [answer]. */
    fun ask(question: String, sampler: Sampler = Sampler(), maxNewTokens: Int = MAX_NEW_TOKENS): Iterator<Int> {
        val turn = turnOf(question)
        val ids = nextIds(turn)
        val whole = position > 0 || held.turns.isEmpty() // else the cache lost what was kept, or a first token behind it never came
        val room = minOf(ANSWER_ROOM, maxNewTokens)
        if (whole && fitsNext(ids, if (held.turns.isEmpty()) 1 else room)) return begin(ids, turn, sampler, maxNewTokens)
        val (kept, all) = shortened(turn, room)
        forgotten += held.turns.size - kept.size
        held = Held(turns = kept)
        return begin(all, turn, sampler, maxNewTokens)
    }

    /**
     * Prefills [ids] behind what the cache holds and gives the answer's ids until a stop id, the limit, or a full context.
     *
     * The first turn's ids hold a run of placeholders for the video. An iterator that is dropped early, or that an error ends, leaves the
     * conversation whole: what was given belongs to it, and a question whose answer never began does not.
     *
     * Errors: [VideoGptException.PromptTooLong] and [VideoGptException.BadPrompt] before anything is computed.
     */
    fun answer(ids: IntArray, sampler: Sampler = Sampler(), maxNewTokens: Int = MAX_NEW_TOKENS): Iterator<Int> {
        val asked = ids.toList()
        val (position, new) = growth(asked)
        checkFits(backend, position, new)
        if (this.position > 0) return begin(asked, Turn(null, asked), sampler, maxNewTokens)
        held = Held()
        return begin(asked, Turn(prompt.splitAtVisualTokens(ids).second.toList(), null), sampler, maxNewTokens)
    }

    /** Begins another conversation about the same clip: its video is in the cache already, only the question is prefilled. */
    fun startOver() {
        held = Held()
        forgotten = 0
    }

    /** The decoder was freed, or another use overwrote its cache: the next question feeds in again what it held. What was asked in ids is
     * forgotten, where they cannot be fed in behind other words than before. */
    fun cacheLost() {
        opening = null
        held = Held(turns = held.turns)
    }

    private fun begin(ids: List<Int>, turn: Turn, sampler: Sampler, maxNewTokens: Int): Iterator<Int> {
        if (position > 0) {
            return generate(embed(backend, (held.unfed + ids).toIntArray()), position, turn, sampler, maxNewTokens, opening)
        }
        val (start, embeds) = firstTurn(ids)
        val before = prompt.splitAtVisualTokens(ids.toIntArray()).first.toList()
        return generate(embeds, start, turn, sampler, maxNewTokens, before)
    }

    private fun turnOf(question: String): Turn {
        val encode = tokenizer()
        return Turn(prompt.questionIds(question, encode).toList(), prompt.laterIds(question, encode).toList())
    }

    /** The ids of [turn] as the conversation's next; errors as [promptIds]. */
    private fun nextIds(turn: Turn): List<Int> {
        val fromTheBeginning = fromTheBeginning(turn)
        val ids = if (position > 0) turn.later.orEmpty() else fromTheBeginning
        if (!fitsNext(ids)) checkFits(backend, 0, tokens(fromTheBeginning))
        return ids
    }

    /** The ids of a whole conversation, its last answer included. */
    private fun fromTheBeginning(first: Turn, later: List<Turn> = emptyList()): List<Int> =
        prompt.openingIds(tokenizer()).toList() + backend.manifest.prompt.placeholderId + first.first.orEmpty() + first.answer +
            later.flatMap { it.later.orEmpty() + it.answer }

    /** As many of the last turns as leave [room] behind [turn], and the ids of all that from the beginning on. */
    private fun shortened(turn: Turn, room: Int): Pair<List<Turn>, List<Int>> {
        for (dropped in 0..held.turns.size) {
            val kept = held.turns.drop(dropped)
            val all = kept + turn
            if (all[0].first == null || all.drop(1).any { it.later == null }) continue
            val ids = fromTheBeginning(all[0], all.drop(1))
            if (kept.isEmpty() || fits(backend, 0, tokens(ids), room)) return kept to ids
        }
        error("a turn in words fits by itself: nextIds checks it")
    }

    /** Where a first turn begins in the cache, and its embeddings: without the opening, where the cache holds it already. */
    private fun firstTurn(ids: List<Int>): Pair<Int, FloatTensor> {
        val visual = watchedTokens()
        val (before, after) = prompt.splitAtVisualTokens(ids.toIntArray())
        if (before.toList() == opening && after.isNotEmpty()) return before.size + visual.rows to embed(backend, after)
        opening = null // until it is in the cache: an interrupt may come first
        return 0 to promptEmbeds(backend, before, visual, after)
    }

    private fun generate(
        prefill: FloatTensor,
        start: Int,
        question: Turn,
        sampler: Sampler,
        maxNewTokens: Int,
        openingIds: List<Int>?,
    ): Iterator<Int> = iterator {
        val earlier = held.turns
        var embeds = prefill
        var position = start
        var turn = question
        for (step in 0 until maxNewTokens) {
            val logits = backend.decode(embeds, position)
            opening = openingIds
            position += embeds.rows
            val token = sampler(logits)
            if (token in stopIds) {
                held = Held(position, emptyList(), earlier + turn)
                return@iterator
            }
            turn = turn.copy(answer = turn.answer + token)
            held = Held(position, listOf(token), earlier + turn)
            yield(token)
            if (full || step + 1 == maxNewTokens) return@iterator
            embeds = embed(backend, intArrayOf(token))
        }
    }

    private fun tokenizer(): (String) -> IntArray = checkNotNull(encode) { "a session without a tokenizer is asked in ids: use answer()" }

    private fun watchedTokens(): FloatTensor = checkNotNull(visual) { "watch() a clip before the first question" }

    /** Tokens that a first turn's ids take in the cache. */
    private fun tokens(ids: List<Int>): Int = ids.count { it >= 0 } + config.visualTokens

    private fun fitsNext(ids: List<Int>, room: Int = 1): Boolean {
        val (position, new) = growth(ids)
        return fits(backend, position, new, room)
    }

    /** Tokens in the cache, and how many come behind them. */
    private fun growth(ids: List<Int>): Pair<Int, Int> =
        if (position == 0) 0 to tokens(ids) else position to held.unfed.size + ids.size
}
