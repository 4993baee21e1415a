package org.mobilevideogpt.demo

import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.provider.MediaStore
import android.view.View
import android.view.inputmethod.EditorInfo
import android.widget.Button
import android.widget.EditText
import android.widget.ProgressBar
import android.widget.ScrollView
import android.widget.TextView
import android.widget.Toast

/** A video, questions about it, and the answers as they come. */
class ChatActivity : Activity() {
    private val model get() = (application as DemoApplication).model
    private val observer: () -> Unit = ::show
    private lateinit var strip: FrameStrip

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_chat)
        strip = FrameStrip(findViewById(R.id.frames))
        findViewById<Button>(R.id.bundles).setOnClickListener { startActivity(Intent(this, BundlesActivity::class.java)) }
        findViewById<Button>(R.id.benchmark).setOnClickListener { startActivity(Intent(this, BenchmarkActivity::class.java)) }
        findViewById<Button>(R.id.pick).setOnClickListener { pickVideo() }
        findViewById<Button>(R.id.record).setOnClickListener { request(Intent(MediaStore.ACTION_VIDEO_CAPTURE), RECORD) }
        findViewById<Button>(R.id.new_conversation).setOnClickListener { model.startOver() }
        findViewById<Button>(R.id.ask).setOnClickListener { if (model.work == Work.NONE) ask() else model.stop() }
        findViewById<EditText>(R.id.question).setOnEditorActionListener { _, action, _ ->
            (action == EditorInfo.IME_ACTION_SEND).also { if (it) ask() }
        }
    }

    override fun onStart() {
        super.onStart()
        model.observe(observer)
        model.resume()
    }

    override fun onStop() {
        model.forget(observer)
        super.onStop()
    }

    /** The result of a picker or of the camera: the video that was chosen. */
    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        val uri = data?.data
        if (resultCode != RESULT_OK || uri == null) return // cancelled
        model.watch(uri)
    }

    /** The system's photo picker where there is one, else the document picker: neither needs a permission. */
    private fun pickVideo() {
        if (Build.VERSION.SDK_INT >= 33) {
            request(Intent(MediaStore.ACTION_PICK_IMAGES).setType(VIDEOS), PICK)
        } else {
            request(Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType(VIDEOS), PICK)
        }
    }

    private fun request(intent: Intent, code: Int) {
        try {
            startActivityForResult(intent, code)
        } catch (_: ActivityNotFoundException) {
            Toast.makeText(this, R.string.no_app_for_this, Toast.LENGTH_LONG).show()
        }
    }

    private fun ask() {
        val field = findViewById<EditText>(R.id.question)
        val question = "${field.text}".trim()
        if (question.isEmpty() || !canAsk()) return
        field.setText("")
        model.ask(question)
    }

    private fun canAsk() = model.work == Work.NONE && model.video?.keyFrames != null

    private fun show() {
        val busy = model.work != Work.NONE
        text(R.id.bundle).text = model.bundle?.folder?.name ?: getString(R.string.no_bundle)
        findViewById<ProgressBar>(R.id.progress).visibility = visible(busy)
        text(R.id.status).text = status()
        text(R.id.status).keepScreenOn = model.keepsScreenOn
        strip.show(model.video)
        showTurns()
        showFailure()
        showUnasked()
        text(R.id.panel).text = panelText(this, model.cost, model.device)
        findViewById<Button>(R.id.ask).apply {
            setText(if (busy) R.string.stop else R.string.ask)
            isEnabled = busy || canAsk()
        }
        findViewById<Button>(R.id.new_conversation).isEnabled = model.turns.isNotEmpty()
    }

    private fun status(): String {
        val step = model.progress.orEmpty()
        return when (model.work) {
            Work.OPENING -> getString(R.string.status_opening)
            Work.READING -> getString(R.string.status_reading, step)
            Work.WATCHING -> getString(R.string.status_watching, step)
            Work.ANSWERING -> getString(R.string.status_answering)
            Work.TESTING -> getString(R.string.status_testing, step)
            Work.MEASURING -> getString(R.string.status_measuring, step)
            Work.NONE -> when {
                model.bundle == null -> getString(R.string.status_no_bundle)
                model.video == null -> getString(R.string.status_no_video)
                else -> lostFrames() ?: getString(R.string.status_ready)
            }
        }
    }

    private fun lostFrames(): String? = model.video?.frames?.lost?.takeIf { it > 0 }?.let {
        resources.getQuantityString(R.plurals.frames_lost, it, it)
    }

    private fun showTurns() {
        val view = text(R.id.transcript)
        val shown = model.turns.joinToString("\n\n") { turn ->
            val ending = turn.ending?.let(::endingText)?.let { "\n[${getString(it)}]" }.orEmpty()
            getString(R.string.turn, turn.question, "${turn.answer}") + ending
        }
        val forgotten = model.cost?.forgotten ?: 0
        val note = if (forgotten > 0) "\n\n[${resources.getQuantityString(R.plurals.turns_forgotten, forgotten, forgotten)}]" else ""
        if ("${view.text}" == shown + note) return // a selection of the user's stays
        view.text = shown + note
        findViewById<ScrollView>(R.id.scroll).apply { post { fullScroll(View.FOCUS_DOWN) } }
    }

    /** A question that was not taken goes back where it was typed, unless another is typed there already. */
    private fun showUnasked() {
        val field = findViewById<EditText>(R.id.question)
        if ("${field.text}".isEmpty()) model.takeUnasked()?.let { field.setText(it) }
    }

    /** A failure stands in place of the conversation until its button is pressed or other work begins. */
    private fun showFailure() {
        val error = model.failure
        findViewById<View>(R.id.failure).visibility = visible(error != null)
        findViewById<View>(R.id.scroll).visibility = visible(error == null)
        if (error == null) return
        val failure = failureOf(error)
        text(R.id.failure_title).setText(failure.title)
        text(R.id.failure_text).text = error.message
        findViewById<Button>(R.id.failure_action).apply {
            setText(failure.remedy.label)
            setOnClickListener { cure(failure.remedy) }
        }
    }

    private fun cure(remedy: Remedy) {
        model.dismiss()
        when (remedy) {
            Remedy.CHOOSE_BUNDLE -> startActivity(Intent(this, BundlesActivity::class.java))
            Remedy.CHOOSE_VIDEO -> pickVideo()
            Remedy.NEW_CONVERSATION -> model.startOver()
            Remedy.DISMISS -> Unit
        }
    }

    private fun text(id: Int): TextView = findViewById(id)

    private fun visible(shown: Boolean) = if (shown) View.VISIBLE else View.GONE

    private companion object {
        const val PICK = 1
        const val RECORD = 2
        const val VIDEOS = "video/*"
    }
}
