package org.mobilevideogpt.demo

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.ProgressBar
import android.widget.TextView
import java.io.File
import java.io.IOException
import java.util.Locale
import kotlin.concurrent.thread
import org.json.JSONObject
import org.mobilevideogpt.core.BenchReport

/** Times the open bundle on this phone, and shares the numbers: the JSON is that of `python -m runtime_py.bench`. */
class BenchmarkActivity : Activity() {
    private val model get() = (application as DemoApplication).model
    private val observer: () -> Unit = ::show

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_benchmark)
        findViewById<Button>(R.id.run).setOnClickListener { if (model.work == Work.NONE) model.bench() else model.stop() }
        findViewById<Button>(R.id.share).setOnClickListener { model.benchmark?.let(::share) }
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

    private fun show() {
        val busy = model.work != Work.NONE
        val report = model.benchmark
        findViewById<Button>(R.id.run).apply {
            setText(if (busy) R.string.stop else R.string.run)
            isEnabled = busy || model.bundle != null
        }
        findViewById<Button>(R.id.share).isEnabled = report != null
        findViewById<ProgressBar>(R.id.progress).visibility = if (busy) View.VISIBLE else View.GONE
        findViewById<TextView>(R.id.status).text = when {
            model.failure != null -> model.failure?.message
            model.work == Work.MEASURING -> model.progress ?: getString(R.string.status_measuring, "")
            busy -> getString(R.string.working)
            model.bundle == null -> getString(R.string.status_no_bundle)
            else -> model.bundle?.folder?.name
        }
        findViewById<TextView>(R.id.status).keepScreenOn = model.keepsScreenOn
        findViewById<TextView>(R.id.result).text = report?.let(::table)
    }

    private fun table(report: BenchReport): String {
        val lines = report.stagesSeconds.map { (stage, seconds) -> String.format(Locale.ROOT, "%-18s %8.3f s", stage, seconds) }
        val summary = getString(
            R.string.benchmark_summary,
            report.firstTokenSeconds,
            report.prefillTokensPerSecond,
            report.decodeTokensPerSecond,
        )
        return (lines + "" + summary + "" + JSONObject(report.toJson()).toString(2)).joinToString("\n")
    }

    /** Writes the result where [ResultProvider] hands it out, not on this thread, and offers it to other apps. */
    private fun share(report: BenchReport) {
        thread(name = "share") {
            val name = String.format(Locale.ROOT, "bench-%tF-%<tH%<tM%<tS.json", System.currentTimeMillis())
            val written = try {
                File(resultsFolder(this), name).also { it.writeText(report.toJson() + "\n") }
            } catch (_: IOException) {
                null
            }
            runOnUiThread {
                if (written != null) startActivity(shareIntent(this, written)) else findViewById<TextView>(R.id.status).setText(R.string.not_written)
            }
        }
    }
}
