package org.mobilevideogpt.core

/**
 * What a user can cause or cure: the message is one line that says what happened and what to do. Anything else that is thrown is a
 * mistake in a program.
 */
sealed class VideoGptException(message: String, cause: Throwable? = null) : Exception(oneLine(message), cause) {

    // The bundle.

    class NoBundle(folder: String, why: String) : VideoGptException("$folder: $why: give a folder that export.build wrote")

    /** A file of the bundle that is not what this version reads. [what] names the file and the place in it. */
    class BadFile(what: String, cause: Throwable? = null) : VideoGptException("$what: $BUILD_AGAIN", cause)

    class NewerBundle(file: String, found: Long) :
        VideoGptException(
            "$file: made by a newer version of the export tool (schema $found, this app reads $SCHEMA_VERSION): update the app",
        )

    class OlderBundle(file: String, found: Long) :
        VideoGptException(
            "$file: made by an older version of the export tool (schema $found, this app reads $SCHEMA_VERSION): build the bundle again",
        )

    class WrongTarget(target: String, targets: Set<String>) :
        VideoGptException(
            "the bundle is built for $target, and this app runs ${targets.sorted().joinToString(" or ")}: " +
                "build it with --target ${targets.sorted().first()}",
        )

    class WrongDelegate(delegate: String, delegates: Set<String>) :
        VideoGptException(
            "the bundle is built for the delegate $delegate, and this app has ${delegates.sorted().joinToString(" and ")}: " +
                "build it with --delegate ${delegates.sorted().last()}",
        )

    class MissingFile(path: String) : VideoGptException("$path: is missing: copy the bundle anew")

    class ChangedFile(path: String, what: String) : VideoGptException("$path: $what: copy the bundle anew")

    class UnreadableFile(path: String, why: String, cause: Throwable? = null) :
        VideoGptException("$path: cannot be read ($why): copy the bundle anew", cause)

    class MissingOperators(val operators: List<String>) :
        VideoGptException(
            "the bundle needs operators that this app was built without (${operators.joinToString(", ")}): " +
                "build the bundle with --kernels stock, or link this project's kernels into the app",
        )

    class DoesNotFit(val neededBytes: Long, val availableBytes: Long) :
        VideoGptException(
            "the bundle needs ${megabytes(neededBytes)} of memory and ${megabytes(availableBytes)} are available: " +
                "close other apps, or build it with --recipe int4 or a smaller --max-context",
        )

    class NoTokenizer(folder: String) :
        VideoGptException("$folder: there is no tokenizer.json in it: build the bundle from a checkpoint that has one")

    class GraphFailed(graph: String, why: String, cause: Throwable? = null) :
        VideoGptException("the graph $graph cannot be run ($why): free some memory, or build the bundle again", cause)

    class LogitsNotFinite :
        VideoGptException("the decoder gave logits that are not finite: build the bundle again, with fp32 or another recipe")

    // The video.

    class VideoUnreadable(what: String, cause: Throwable? = null) :
        VideoGptException("the video cannot be read ($what): choose another one, or record it again", cause)

    class NoVideoTrack(what: String) : VideoGptException("$what has no video track: choose a video")

    class VideoUnsupported(what: String) :
        VideoGptException("$what is not supported: choose a video with 8 bits a colour and without HDR, or convert this one")

    // The question.

    class PromptTooLong(tokens: Int, position: Int, maxContext: Int, visualTokens: Int) :
        VideoGptException(
            "$tokens tokens ${if (position > 0) "after $position " else ""}do not fit the context of $maxContext tokens, of which the " +
                "video takes $visualTokens: ask a shorter question, start a new conversation, or build with a larger --max-context",
        )

    class BadPrompt(what: String) : VideoGptException(what)

    /** An option out of range. */
    class BadOption(what: String) : VideoGptException(what)

    // The download.

    class BadAddress(address: String, why: String) : VideoGptException("$address: $why")

    class NoConnection(address: String, why: String, cause: Throwable? = null) :
        VideoGptException("$address: no connection ($why): what has arrived is kept; check the network and try again", cause)

    class ServerRefused(address: String, answer: String) :
        VideoGptException("$address: the server answers with $answer: check the address, or try again later")

    class WrongHash(address: String, expected: String, found: String) :
        VideoGptException("$address: its SHA-256 is $found, not $expected: check the hash and the address that you were given")

    class BadListing(address: String, why: String) :
        VideoGptException("$address: is no list of a bundle's files ($why): give the address of a folder that export.build wrote")

    class DiskFull(val neededBytes: Long, val availableBytes: Long) :
        VideoGptException(
            "the bundle takes ${megabytes(neededBytes)} more on the disk and ${megabytes(availableBytes)} are free: " +
                "remove what you do not need, what has arrived is kept",
        )

    class StorageFailed(path: String, why: String, cause: Throwable? = null) :
        VideoGptException("$path: cannot be written ($why): free some space and try again", cause)

    class Cancelled : VideoGptException("cancelled: what has arrived is kept, and the next try goes on from there")
}

private const val BUILD_AGAIN = "build the bundle again or copy it anew"

private fun megabytes(bytes: Long): String = "${(bytes + 999_999) / 1_000_000} MB"

private fun oneLine(message: String): String = message.split(Regex("\\s+")).filter { it.isNotEmpty() }.joinToString(" ")
