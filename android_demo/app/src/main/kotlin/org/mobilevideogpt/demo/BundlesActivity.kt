package org.mobilevideogpt.demo

import android.app.Activity
import android.app.AlertDialog
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import android.widget.Toast
import java.io.File
import kotlin.concurrent.thread
import org.mobilevideogpt.core.Manifest
import org.mobilevideogpt.core.SelfTestReport
import org.mobilevideogpt.core.VideoGptException

/** The bundles on this phone: use one, test it here, delete it, or get another one from an address. */
class BundlesActivity : Activity() {
    private val model get() = (application as DemoApplication).model
    private val observer: () -> Unit = ::show
    private var listed: List<ListedBundle> = emptyList()
    private var arrived: File? = null // when the list was read last
    private var shown: Any? = null // what the rows were made of

    /** A bundle's folder, and what its manifest says, or why it cannot be read. */
    private class ListedBundle(val folder: File, val manifest: Manifest?, val failure: VideoGptException?)

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_bundles)
        text(R.id.folder).text = getString(R.string.bundles_folder, model.library.folder.path)
        findViewById<Button>(R.id.download).setOnClickListener {
            if (model.downloads.running) model.downloads.cancel() else model.downloads.start(entered(R.id.address), entered(R.id.pin))
        }
    }

    override fun onStart() {
        super.onStart()
        model.observe(observer)
        readList()
    }

    override fun onStop() {
        model.forget(observer)
        super.onStop()
    }

    /** Manifests are read from the disk: not on this thread. */
    private fun readList() {
        arrived = model.downloads.arrived
        thread(name = "bundles") {
            val found = model.library.bundles().map { folder ->
                try {
                    ListedBundle(folder, Manifest.read(folder), null)
                } catch (error: VideoGptException) {
                    ListedBundle(folder, null, error)
                }
            }
            runOnUiThread {
                listed = found
                showList()
            }
        }
    }

    private fun show() {
        if (model.downloads.arrived != arrived) readList()
        showList()
        val downloads = model.downloads
        val progress = downloads.progress
        findViewById<Button>(R.id.download).setText(if (downloads.running) R.string.stop else R.string.download)
        findViewById<ProgressBar>(R.id.progress).apply {
            visibility = if (downloads.running || model.work == Work.TESTING) View.VISIBLE else View.GONE
            isIndeterminate = progress == null || progress.totalBytes == 0L || !downloads.running
            if (progress != null && progress.totalBytes > 0) this.progress = (1000 * progress.doneBytes / progress.totalBytes).toInt()
        }
        text(R.id.status).text = status()
        text(R.id.status).keepScreenOn = model.keepsScreenOn
    }

    private fun status(): String {
        val downloads = model.downloads
        val progress = downloads.progress
        return when {
            downloads.running -> progress?.let { getString(R.string.download_progress, megabytes(it.doneBytes), megabytes(it.totalBytes)) }
                ?: getString(R.string.working)
            downloads.failure != null -> downloads.failure?.message.orEmpty()
            model.failure != null -> model.failure?.message.orEmpty()
            model.work == Work.TESTING -> getString(R.string.status_testing, model.progress.orEmpty())
            model.work == Work.OPENING -> getString(R.string.status_opening)
            else -> model.selfTest?.let(::selfTestText) ?: downloads.arrived?.let { getString(R.string.download_done, it.name) }.orEmpty()
        }
    }

    private fun selfTestText(report: SelfTestReport): String {
        val title = getString(if (report.passed) R.string.self_test_passed else R.string.self_test_failed)
        val lines = report.checks.map { check ->
            getString(if (check.passed) R.string.check_passed else R.string.check_failed, check.name, check.detail)
        }
        return (listOf(title) + lines).joinToString("\n")
    }

    /** Rows are made anew only where what they show has changed, or a press on one of their buttons would be lost. */
    private fun showList() {
        val made = Triple(listed, model.bundle, model.work)
        if (made == shown) return
        shown = made
        val list = findViewById<LinearLayout>(R.id.list)
        list.removeAllViews()
        for (bundle in listed) list.addView(row(bundle, list))
    }

    private fun row(bundle: ListedBundle, list: LinearLayout): View {
        val row = layoutInflater.inflate(R.layout.row_bundle, list, false)
        val open = model.bundle?.folder == bundle.folder
        row.findViewById<TextView>(R.id.name).text = bundle.manifest?.checkpointName ?: bundle.folder.name
        row.findViewById<TextView>(R.id.details).text = bundle.manifest?.let { details(it) } ?: bundle.failure?.message
        row.findViewById<Button>(R.id.use).apply {
            isEnabled = !open && bundle.manifest != null
            setText(if (open) R.string.in_use else R.string.use)
            setOnClickListener { model.open(bundle.folder) }
        }
        row.findViewById<Button>(R.id.self_test).apply {
            isEnabled = open && model.work == Work.NONE
            setOnClickListener { model.selfTest() }
        }
        row.findViewById<Button>(R.id.delete).apply {
            isEnabled = !open
            setOnClickListener { confirmDeletion(bundle.folder) }
        }
        return row
    }

    private fun details(manifest: Manifest): String {
        val line = getString(
            R.string.bundle_details,
            manifest.target,
            manifest.recipe,
            manifest.kernels,
            megabytes(manifest.bundleBytes),
            megabytes(manifest.expectedMemoryBytes),
            megabytes(model.device.availableBytes),
        )
        return if (manifest.verified) line else line + getString(R.string.not_verified)
    }

    private fun confirmDeletion(folder: File) {
        AlertDialog.Builder(this)
            .setMessage(getString(R.string.delete_question, folder.name))
            .setPositiveButton(R.string.delete) { _, _ ->
                thread(name = "delete") {
                    val deleted = model.library.delete(folder)
                    runOnUiThread {
                        if (!deleted) Toast.makeText(this, R.string.not_deleted, Toast.LENGTH_LONG).show()
                        readList()
                    }
                }
            }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun entered(id: Int): String = "${findViewById<EditText>(id).text}".trim()

    private fun text(id: Int): TextView = findViewById(id)
}
