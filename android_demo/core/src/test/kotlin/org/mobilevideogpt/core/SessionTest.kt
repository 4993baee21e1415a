package org.mobilevideogpt.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** A conversation over the decoder's cache must be what one prefill of all of it would be, however its answers ended. */
class SessionTest {
    private val backend = FakeBackend()

    private fun watching(encode: ((String) -> IntArray)? = null) = Session(backend, encode).also { it.watch(PIXELS) }

    /** The answer's ids, at most [take] of them, in the way that an app leaves an answer: by exhausting or dropping the iterator. */
    private fun Session.said(ids: List<Int>, take: Int = Int.MAX_VALUE, maxNewTokens: Int = MAX_NEW_TOKENS): List<Int> {
        val said = ArrayList<Int>()
        try {
            for (id in answer(ids.toIntArray(), maxNewTokens = maxNewTokens)) {
                said += id
                if (said.size == take) break
            }
        } catch (_: Interrupt) {
        } catch (_: VideoGptException.LogitsNotFinite) {
        }
        return said
    }

    private fun Session.saying(question: List<Int>, vararg ids: Int): List<Int> {
        backend.says(*ids)
        return said(question)
    }

    /** How a first answer ended: the turn, how many ids it said, and how many of them the cache does not hold yet. */
    private class Ended(val name: String, val said: Int, val unfed: Int, val turn: SessionTest.(Session) -> List<Int>)

    private val endings = listOf(
        Ended("stop", 3, 0) { it.saying(FIRST, 50, 51, 52, STOP) },
        Ended("stop at once", 0, 0) { it.saying(FIRST, STOP) },
        Ended("limit", 3, 1) {
            backend.says(50, 51, 52)
            it.said(FIRST, maxNewTokens = 3)
        },
        Ended("dropped", 3, 1) {
            backend.says(50, 51, 52, 53)
            it.said(FIRST, take = 3)
        },
        Ended("interrupted in sampling", 3, 1) { it.saying(FIRST, 50, 51, 52, FakeBackend.NOT_FINITE) },
    )

    @Test
    fun aLaterTurnEqualsOnePrefillOfTheWholeConversation() = endings.forEach { ending ->
        val session = watching()
        val first = ending.turn(this, session)
        assertEquals(ending.name, listOf(50, 51, 52).take(ending.said), first)
        session.saying(SECOND, 60, 61, STOP)
        backend.forget()
        val third = session.said(THIRD, maxNewTokens = 5)
        val inTurns = backend.logits.toList()
        assertEquals(ending.name, THIRD.size, backend.decoded[0]) // its own tokens only

        backend.forget()
        assertEquals(ending.name, third, watching().said(FIRST + first + SECOND + listOf(60, 61) + THIRD, maxNewTokens = 5))
        assertEquals(VISUAL + 5 + ending.said + SECOND.size + 2 + THIRD.size, backend.decoded[0])
        assertSame(ending.name, inTurns, backend.logits)
    }

    @Test
    fun aSecondQuestionPrefillsOnlyItsOwnTokens() = endings.forEach { ending ->
        val session = watching()
        ending.turn(this, session)
        val before = session.position
        backend.forget()
        session.saying(SECOND, 60, 61, STOP)
        assertEquals(ending.name, listOf(ending.unfed + SECOND.size, 1, 1), backend.decoded)
        assertEquals(setOf("token_embedding"), backend.ran.toSet())
        assertEquals(before + backend.decoded.sum(), session.position)
    }

    @Test
    fun anInterruptInsideTheDecoderLosesNothingThatWasSaid() {
        for (second in listOf(false, true)) for (call in listOf(0, 2)) { // the prefill, a later step
            backend.forget()
            val session = watching()
            val earlier = if (second) FIRST + session.saying(FIRST, 50, STOP) else emptyList()
            backend.forget()
            backend.failAt = call
            val question = if (second) SECOND else FIRST
            val said = session.saying(question, 70, 71, 72, 73)
            assertEquals(listOf(70, 71).take(call), said)
            backend.forget()
            val asked = if (said.isEmpty()) emptyList() else question + said // a question whose answer never began is not part of it
            val then = if (earlier.isEmpty() && asked.isEmpty()) FIRST else SECOND
            val resumed = session.said(then, maxNewTokens = 3)
            val inTurns = backend.logits.toList()

            backend.forget()
            assertEquals(resumed, watching().said(earlier + asked + then, maxNewTokens = 3))
            assertSame("second $second, call $call", inTurns, backend.logits)
        }
    }

    @Test
    fun everyStopIdEndsAnAnswerAndIsNotPartOfIt() {
        val session = watching()
        for ((end, question) in listOf(1021, 1023).zip(listOf(FIRST, SECOND))) {
            assertEquals(listOf(80, 81), session.saying(question, 80, 81, end, 82))
        }
    }

    @Test
    fun theAnswerEndsWhereTheContextIsFull() {
        val session = watching()
        backend.maxContext = VISUAL + 5 + 6 // the video, the question, and room for six
        assertEquals((50..55).toList(), session.saying(FIRST, *(50..89).toList().toIntArray()))
        assertTrue(session.full)
        val held = session.position
        backend.forget()
        backend.maxContext = held + 1
        val error = assertThrows(VideoGptException.PromptTooLong::class.java) { session.answer(SECOND.toIntArray()) }
        assertTrue(error.message, "context" in error.message!!)
        assertEquals(held, session.position)
        assertTrue(backend.ran.isEmpty() && backend.decoded.isEmpty())
        backend.maxContext = held + 20 // nothing was lost: with room the conversation goes on
        assertEquals(listOf(60), session.saying(SECOND, 60, STOP))
        assertEquals(listOf(1 + SECOND.size, 1), backend.decoded)
    }

    @Test
    fun aQuestionThatDoesNotFitCostsNothing() {
        val session = watching()
        backend.forget()
        backend.maxContext = VISUAL + 5
        assertThrows(VideoGptException.PromptTooLong::class.java) { session.answer(FIRST.toIntArray()) }
        assertTrue(backend.ran.isEmpty() && backend.decoded.isEmpty())
        backend.maxContext += 1
        assertEquals(listOf(50), session.saying(FIRST, 50, 51)) // room for one token, and one is given
    }

    @Test
    fun aModelThatBreaksDownLeavesTheConversationAsItWas() {
        val session = watching()
        session.saying(FIRST, 50, 51, STOP)
        val held = session.position
        backend.says(FakeBackend.NOT_FINITE)
        assertThrows(VideoGptException.LogitsNotFinite::class.java) { session.answer(SECOND.toIntArray()).next() }
        assertEquals(held, session.position)
    }

    @Test
    fun keyFramesAreTheBestOfEachChunkAndTheGraphsThatWatchedAreFreed() {
        backend.scores = floatArrayOf(0f, 5f, 0f, 4f, 3f, 0f, 2f, 1f, 9f, 8f, 7f, 6f, 0f, 0f, 0f, 0f)
        val session = Session(backend, null)
        assertArrayEquals(intArrayOf(1, 3, 4, 6, 8, 9, 10, 11), session.watch(PIXELS))
        assertEquals(setOf("loading") + VISION, session.stagesSeconds.keys)
        assertEquals(VISION, backend.ran)
        assertTrue(backend.loaded.isEmpty())
    }

    @Test
    fun watchingAgainBeginsAnew() {
        val session = watching()
        val begun = session.said(FIRST, maxNewTokens = 2)
        session.said(SECOND, maxNewTokens = 1)
        session.watch(PIXELS)
        assertEquals(0, session.position)
        assertFalse(session.full)
        backend.forget()
        assertEquals(begun, session.said(FIRST, maxNewTokens = 2))
        assertEquals(VISUAL + 5, backend.decoded[0])
    }

    @Test
    fun wordsAreAskedInTheReleaseTemplate() {
        val session = watching(::encode)
        backend.says(50, 51)
        session.ask("What moves?", maxNewTokens = 2).drain()
        backend.says(60)
        session.ask("Where to?", maxNewTokens = 1).drain()
        val first = PROMPT.tokenize(PROMPT.firstTurn("What moves?"), ::encode).count { it >= 0 }
        assertEquals(listOf(first + VISUAL, 1, 1 + PROMPT.laterIds("Where to?", ::encode).size), backend.decoded)
        assertArrayEquals(PROMPT.laterIds("And then?", ::encode), session.promptIds("And then?"))
        assertThrows(VideoGptException.PromptTooLong::class.java) { session.promptIds("word ".repeat(4096)) }
    }

    /** A long question and two short ones, in a context that a fourth does not fit. */
    private fun talked(): Session = watching(::encode).also { session ->
        backend.forget()
        (listOf(LONG) + WORDS.take(2)).forEachIndexed { i, question ->
            backend.says(*(50 + 10 * i..54 + 10 * i).toList().toIntArray(), STOP)
            session.ask(question).drain()
        }
        backend.forget()
        backend.maxContext = session.position + 5
    }

    /** The ids behind the video once the long question is forgotten, up to the answer to [asked]. */
    private fun withoutTheFirst(asked: String): List<Int> =
        PROMPT.questionIds(WORDS[0], ::encode).toList() + (60..64) + PROMPT.laterIds(WORDS[1], ::encode).toList() + (70..74) +
            PROMPT.laterIds(asked, ::encode).toList()

    @Test
    fun whenTheContextIsFullTheOldestTurnsAreForgottenAndTheVideoStays() {
        val session = talked()
        val said = session.ask(WORDS[2], maxNewTokens = 3).drain()
        val inTurns = backend.logits.toList()
        val behind = withoutTheFirst(WORDS[2])
        assertEquals(1, session.forgotten)
        assertEquals(behind.size, backend.decoded[0])
        assertEquals(setOf("token_embedding"), backend.ran.toSet())
        backend.forget()
        val fresh = watching()
        assertEquals(said, fresh.said(PROMPT.openingIds(::encode).toList() + listOf(-200) + behind, maxNewTokens = 3))
        assertSame("forgotten", inTurns, backend.logits)
    }

    @Test
    fun aQuestionThatFitsButLeavesNoRoomForAnAnswerMakesRoom() {
        val session = talked()
        val question = PROMPT.laterIds(WORDS[2], ::encode).size
        backend.maxContext = session.position + question + ANSWER_ROOM - 1
        backend.says(50, 51, 52, 53, 54, STOP)
        assertEquals(5, session.ask(WORDS[2], maxNewTokens = ANSWER_ROOM - 1).drain().size) // a short answer needs less room
        assertEquals(0, session.forgotten)
        backend.maxContext = session.position + question + ANSWER_ROOM - 1
        backend.says(STOP)
        session.ask(WORDS[2]).drain()
        assertEquals(1, session.forgotten)
    }

    @Test
    fun asManyOfTheLastTurnsAreKeptAsLeaveRoomForAnAnswer() {
        val needed = VISUAL + PROMPT.openingIds(::encode).size + withoutTheFirst(WORDS[2]).size + ANSWER_ROOM
        for ((room, forgotten) in listOf(0 to 1, -1 to 2)) { // the second turn stays where it just fits, and goes where it just does not
            val session = talked()
            backend.maxContext = needed + room
            backend.says(STOP)
            session.ask(WORDS[2]).drain()
            assertEquals(forgotten, session.forgotten)
        }
    }

    @Test
    fun whereNoTurnLeavesRoomForAnAnswerAllAreForgotten() {
        val session = talked()
        val question = PROMPT.questionIds(WORDS[2], ::encode).size
        backend.maxContext = VISUAL + PROMPT.openingIds(::encode).size + question + 5
        backend.says(STOP)
        session.ask(WORDS[2]).drain()
        assertEquals(3, session.forgotten)
        assertEquals(listOf(question), backend.decoded)
        val held = session.position
        // What would not fit an empty conversation costs nothing.
        assertThrows(VideoGptException.PromptTooLong::class.java) { session.ask(LONG) }
        assertEquals(held, session.position)
        assertEquals(3, session.forgotten)
    }

    @Test
    fun anotherConversationHasForgottenNothing() {
        val session = talked()
        backend.says(STOP)
        session.ask(WORDS[2]).drain()
        assertEquals(1, session.forgotten)
        session.startOver()
        assertEquals(0, session.forgotten)
    }

    @Test
    fun anInterruptWhileTurnsAreFedInAgainLosesNoneOfThem() {
        val session = talked()
        val room = backend.maxContext
        backend.failAt = 0
        assertThrows(Interrupt::class.java) { session.ask(WORDS[2]).drain() }
        backend.forget()
        backend.maxContext = room + ANSWER_ROOM
        backend.says(STOP)
        session.ask(WORDS[3]).drain()
        assertEquals(1, session.forgotten)
        assertEquals(listOf(withoutTheFirst(WORDS[3]).size), backend.decoded)
    }

    @Test
    fun theVideoCanBePrefilledBeforeTheQuestion() {
        val session = watching(::encode)
        backend.forget()
        session.prefillVideo()
        session.prefillVideo()
        assertEquals(listOf(PROMPT.openingIds(::encode).size + VISUAL), backend.decoded)
        backend.forget()
        val said = session.ask(WORDS[0], maxNewTokens = 3).drain()
        val behind = backend.logits.toList()
        assertEquals(PROMPT.questionIds(WORDS[0], ::encode).size, backend.decoded[0])
        backend.forget()
        assertEquals(said, watching(::encode).ask(WORDS[0], maxNewTokens = 3).drain())
        assertSame("ahead", behind, backend.logits)
    }

    @Test
    fun aPrefillAheadThatIsInterruptedIsDoneAgain() {
        val session = watching(::encode)
        backend.forget()
        backend.failAt = 0
        assertThrows(Interrupt::class.java) { session.prefillVideo() }
        backend.forget()
        session.prefillVideo()
        assertEquals(listOf(PROMPT.openingIds(::encode).size + VISUAL), backend.decoded)
    }

    @Test
    fun aSessionAskedOutOfOrderSaysSo() {
        val early = assertThrows(IllegalStateException::class.java) { Session(backend, null).answer(FIRST.toIntArray()) }
        assertTrue(early.message, "watch" in early.message!!)
        val mute = assertThrows(IllegalStateException::class.java) { Session(backend, null).ask("What moves?") }
        assertTrue(mute.message, "tokenizer" in mute.message!!)
    }

    @Test
    fun anotherConversationBeginsBehindTheSameVideo() {
        val session = watching()
        session.saying(FIRST, 50, 51, STOP)
        session.saying(SECOND, 52, STOP)
        backend.forget()
        session.startOver()
        session.saying(OTHER, 60, STOP)
        assertEquals(3, backend.decoded[0]) // its own words alone
        val other = backend.logits.toList()
        backend.forget()
        session.saying(SECOND, STOP)
        val later = backend.logits.toList()

        backend.forget()
        val fresh = watching()
        backend.forget()
        fresh.saying(OTHER, 60, STOP)
        assertEquals(3 + VISUAL + 3, backend.decoded[0])
        assertSame("its first turn", other, backend.logits)
        backend.forget()
        fresh.saying(SECOND, STOP)
        assertSame("its second turn", later, backend.logits)
    }

    @Test
    fun aConversationThatOpensOtherwisePrefillsTheVideoAgain() {
        for (ids in listOf(listOf(9, 11, 12) + OTHER.drop(3), listOf(10, 11) + OTHER.drop(3))) {
            backend.forget()
            val session = watching()
            session.saying(FIRST, 50, STOP)
            session.startOver()
            backend.forget()
            session.saying(ids, 60, STOP)
            assertEquals(ids.count { it >= 0 } + VISUAL, backend.decoded[0])
        }
    }

    @Test
    fun aVideoWhosePrefillWasInterruptedIsNotTakenForHeld() {
        val session = watching()
        backend.failAt = 0
        session.said(FIRST)
        session.startOver()
        backend.forget()
        session.saying(OTHER, 60, STOP)
        assertEquals(3 + VISUAL + 3, backend.decoded[0])
    }

    @Test
    fun aVideoThatAnInterruptedConversationOverwroteIsNotTakenForHeld() {
        val session = watching()
        session.saying(FIRST, 50, STOP)
        session.startOver()
        backend.forget()
        backend.failAt = 0
        session.said(listOf(9) + OTHER.drop(1)) // opens otherwise: the cache is written from the beginning
        backend.forget()
        session.saying(OTHER, 60, STOP)
        assertEquals(3 + VISUAL + 3, backend.decoded[0])
    }

    @Test
    fun anotherClipIsPrefilledAnew() {
        val session = watching()
        session.saying(FIRST, 50, STOP)
        backend.clip = 1f
        session.watch(PIXELS)
        backend.forget()
        session.saying(OTHER, 60, STOP)
        assertEquals(3 + VISUAL + 3, backend.decoded[0])
    }

    @Test
    fun aConversationGoesOnWhenTheCacheIsLost() {
        val session = watching(::encode)
        backend.says(50, 51, 52)
        session.ask(WORDS[0], maxNewTokens = 3).drain() // the third id is not fed yet
        backend.says(60, STOP)
        session.ask(WORDS[1]).drain()
        backend.release(GRAPHS)
        session.cacheLost()
        assertEquals(0, session.position)
        backend.forget()
        val third = session.ask(WORDS[2], maxNewTokens = 3).drain()
        assertEquals(0, session.forgotten)
        val behind = PROMPT.questionIds(WORDS[0], ::encode).toList() + listOf(50, 51, 52) +
            PROMPT.laterIds(WORDS[1], ::encode).toList() + 60 + PROMPT.laterIds(WORDS[2], ::encode).toList()
        val fed = backend.logits.toList()
        backend.forget()
        assertEquals(third, watching().said(PROMPT.openingIds(::encode).toList() + listOf(-200) + behind, maxNewTokens = 3))
        assertSame("fed in again", fed, backend.logits)
        backend.forget()
        session.cacheLost()
        session.prefillVideo() // and what can be done ahead of the next question is
        assertEquals(listOf(PROMPT.openingIds(::encode).size + VISUAL), backend.decoded)
    }

    private fun assertSame(what: String, expected: List<FloatArray>, actual: List<FloatArray>) {
        assertEquals(what, expected.size, actual.size)
        expected.zip(actual).forEachIndexed { step, (one, other) -> assertArrayEquals("$what, step $step", one, other, 0f) }
    }

    private companion object {
        const val STOP = 1021
        const val VISUAL = 2402
        val PIXELS = FloatTensor(FloatArray(16 * 3 * 4), intArrayOf(16, 3, 2, 2)).let { Pixels(it, it) }
        val FIRST = listOf(10, 11, 12) + List(16) { -200 } + listOf(13, 14)
        val SECOND = listOf(20, 21, 22, 23)
        val THIRD = listOf(30, 31)
        val OTHER = listOf(10, 11, 12) + List(16) { -200 } + listOf(15, 16, 17)
        val WORDS = listOf("What moves?", "Where to?", "How many shapes are there?", "Which appears first?")
        val LONG = "word ".repeat(3 * ANSWER_ROOM)
        val PROMPT = Prompt(fakeManifest(4096).prompt)

        /** A word, a mark and a line break are an id each. */
        fun encode(text: String): IntArray =
            Regex("<\\|\\w+\\|>|\\w+|[^\\w\\s]|\n").findAll(text).map { 100 + Math.floorMod(it.value.hashCode(), 800) }.toList()
                .toIntArray()

        fun Iterator<Int>.drain(): List<Int> = asSequence().toList()
    }
}
