package org.mobilevideogpt.demo

import android.content.Context
import android.graphics.Bitmap
import android.net.Uri
import android.os.Handler
import android.os.Looper
import java.io.File
import org.mobilevideogpt.core.Answer
import org.mobilevideogpt.core.AnswerListener
import org.mobilevideogpt.core.BenchOptions
import org.mobilevideogpt.core.BenchReport
import org.mobilevideogpt.core.Bundle
import org.mobilevideogpt.core.Clip
import org.mobilevideogpt.core.ClipSource
import org.mobilevideogpt.core.Ending
import org.mobilevideogpt.core.Host
import org.mobilevideogpt.core.Listener
import org.mobilevideogpt.core.Machine
import org.mobilevideogpt.core.SelfTestReport
import org.mobilevideogpt.core.VideoChat
import org.mobilevideogpt.core.VideoGptException
import org.mobilevideogpt.core.Watched
import org.mobilevideogpt.core.android.Device
import org.mobilevideogpt.core.android.VideoFrames
import org.mobilevideogpt.core.android.VideoReader
import org.mobilevideogpt.core.executorch.ExecuTorchBackend

/** What is being done; one at a time. */
enum class Work { NONE, OPENING, READING, WATCHING, ANSWERING, TESTING, MEASURING }

/** A question and what has come of its answer. */
class Turn(val question: String) {
    val answer = StringBuilder()
    var ending: Ending? = null
}

/** A video whose frames were sampled; [keyFrames] are null until it was watched. */
class SampledVideo(val uri: Uri, val frames: VideoFrames, val pictures: List<Bitmap>) {
    var keyFrames: Set<Int>? = null
}

/**
 * What the screens show, and what they ask for: one for the process, so that turning the phone loses nothing. All of it is the main
 * thread's; the work itself is done by [VideoChat]'s thread, and its news come back through [main].
 */
class ChatModel(private val context: Context) {
    val device = Device(context)
    val library = BundleLibrary(context)
    val downloads = Downloads(::host, library.folder, ::changed)

    var bundle: Bundle? = null
        private set
    var video: SampledVideo? = null
        private set
    var work = Work.NONE
        private set

    /** The system ends the work when the screen goes off, as [trimMemory] says: it stays on meanwhile. */
    val keepsScreenOn: Boolean get() = work != Work.NONE || downloads.running

    /** How far the work is: a graph's name, a line of the benchmark, or null. */
    var progress: String? = null
        private set

    /** What ended the last work, until other work begins or [dismiss]. */
    var failure: VideoGptException? = null
        private set
    val turns = ArrayList<Turn>()
    var cost: Answer? = null
        private set
    var selfTest: SelfTestReport? = null
        private set
    var benchmark: BenchReport? = null
        private set

    private val main = Handler(Looper.getMainLooper())
    private val chat = VideoChat { ExecuTorchBackend(it) }
    private val observers = ArrayList<() -> Unit>()
    private var current: Task<*>? = null
    private var videoUri: Uri? = null // chosen, perhaps not read yet
    private var unasked: String? = null

    /** Calls [observer] now and after each change, until [forget]. */
    fun observe(observer: () -> Unit) {
        observers += observer
        observer()
    }

    fun forget(observer: () -> Unit) {
        observers -= observer
    }

    /** A screen comes to the front: opens the bundle of the last time, where none is open, and watches what was cut short. */
    fun resume() {
        if (work != Work.NONE || failure != null) return
        if (bundle == null) library.chosen()?.let(::open) else if (video?.keyFrames == null) videoUri?.let(::watch)
    }

    fun open(folder: File) {
        chat.stop()
        bundle = null
        selfTest = null
        clearVideo()
        chat.open(folder, host(), library.stamps, begin(object : Task<Bundle>(Work.OPENING) {
            override fun finished(result: Bundle) {
                bundle = result
                library.choose(folder)
                end(this)
                videoUri?.let(::watch)
            }
        }))
    }

    fun watch(uri: Uri) {
        videoUri = uri
        if (work == Work.OPENING) return // it is watched when the bundle is open
        if (bundle == null) {
            fail(VideoGptException.BadPrompt(context.getString(R.string.choose_bundle_first)))
            return
        }
        chat.stop()
        clearVideo()
        val task = begin(object : Task<Watched>(Work.READING) {
            override fun finished(result: Watched) {
                video?.keyFrames = result.keyFrames.filter { it < result.frames }.toSet()
            }
        })
        chat.watchClip(sampled(uri, task), task)
    }

    fun ask(question: String) {
        val turn = Turn(question)
        turns += turn
        chat.ask(question, begin(object : Task<Answer>(Work.ANSWERING), AnswerListener {
            override fun text(piece: String) = onMain {
                turn.answer.append(piece)
                changed()
            }

            override fun finished(result: Answer) {
                turn.ending = result.ending
                if (turn in turns) cost = result // else another conversation has begun since
            }

            override fun dropped() {
                turn.ending = Ending.STOPPED
                if (turn.answer.isEmpty() && turns.remove(turn)) unasked = question // it never began: not of the conversation
            }
        }))
    }

    /** A question that never came to an answer, once: to be put back into the field. */
    fun takeUnasked(): String? = unasked.also { unasked = null }

    fun stop() {
        if (work == Work.READING || work == Work.WATCHING) videoUri = null // not wanted any more
        chat.stop()
    }

    fun startOver() {
        chat.stop()
        chat.startOver()
        turns.clear()
        cost = null
        changed()
    }

    fun selfTest() {
        selfTest = null
        chat.selfTest(begin(object : Task<SelfTestReport>(Work.TESTING) {
            override fun finished(result: SelfTestReport) {
                selfTest = result
            }
        }))
    }

    fun bench() {
        benchmark = null
        val machine = Machine(
            threads = ExecuTorchBackend.defaultThreads(),
            versions = mapOf("phone" to device.name),
            processAgeSeconds = device::processAgeSeconds,
            thermalState = device::thermalState,
        )
        chat.bench(BenchOptions(machine = machine), begin(object : Task<BenchReport>(Work.MEASURING) {
            override fun finished(result: BenchReport) {
                benchmark = result
            }
        }))
    }

    fun dismiss() {
        failure = null
        changed()
    }

    /** [hidden]: another app is in front. Then nothing goes on but a download, and no graph stays loaded. */
    fun trimMemory(hidden: Boolean) {
        if (hidden) chat.stop()
        chat.trimMemory(decoder = hidden)
    }

    private fun host(): Host = device.host(BuildConfig.CUSTOM_OPERATORS)

    private fun clearVideo() {
        video = null
        turns.clear()
        cost = null
    }

    /** Reads a video on the chat's thread and shows its frames as soon as they are there. */
    private fun sampled(uri: Uri, task: Task<Watched>) = ClipSource { p, stopped ->
        val reader = VideoReader(context, uri)
        val frames = reader.read(p, { count -> task.progress(context.getString(R.string.frame_of, count, p.frames)) }, stopped)
        val pictures = frames.clips.map(::bitmap)
        onMain {
            if (current !== task) return@onMain
            video = SampledVideo(uri, frames, pictures)
            work = Work.WATCHING
            progress = null
            changed()
        }
        Clip(frames.clips.size, frames.pixels(p))
    }

    private fun <T : Task<*>> begin(task: T): T {
        current = task
        work = task.kind
        progress = null
        failure = null
        changed()
        return task
    }

    private fun end(task: Task<*>) {
        if (current === task) {
            current = null
            work = Work.NONE
            progress = null
        }
        changed()
    }

    private fun fail(error: VideoGptException) {
        failure = error
        changed()
    }

    private fun changed() = observers.toList().forEach { it() }

    private fun onMain(news: () -> Unit) {
        main.post(news)
    }

    /** One piece of work. What it brings counts also where other work has begun since; its end counts only where not. */
    private abstract inner class Task<T>(val kind: Work) : Listener<T> {
        abstract fun finished(result: T)

        /** Stopped or failed. */
        open fun dropped() = Unit

        override fun done(result: T) = onMain {
            finished(result)
            end(this)
        }

        override fun failed(error: VideoGptException) = onMain {
            dropped()
            if (current === this) failure = error
            end(this)
        }

        override fun stopped() = onMain {
            dropped()
            end(this)
        }

        override fun progress(what: String) = onMain {
            if (current === this) {
                progress = what
                changed()
            }
        }
    }
}
