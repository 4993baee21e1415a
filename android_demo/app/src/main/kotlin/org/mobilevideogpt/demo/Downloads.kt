package org.mobilevideogpt.demo

import android.os.Handler
import android.os.Looper
import java.io.File
import java.util.concurrent.atomic.AtomicReference
import kotlin.concurrent.thread
import org.mobilevideogpt.core.Download
import org.mobilevideogpt.core.DownloadProgress
import org.mobilevideogpt.core.Host
import org.mobilevideogpt.core.VideoGptException
import org.mobilevideogpt.core.checkHost

/**
 * One download at a time, which goes on while the screen is turned and while another app is in front, as long as the system lets this
 * process live; what has arrived is kept. Its state is the main thread's.
 */
class Downloads(private val host: () -> Host, private val store: File, private val changed: () -> Unit) {
    var progress: DownloadProgress? = null
        private set
    var failure: VideoGptException? = null
        private set

    /** The bundle that arrived last. */
    var arrived: File? = null
        private set
    val running: Boolean get() = download != null

    private val main = Handler(Looper.getMainLooper())
    private var download: Download? = null

    /** [pin]: SHA-256 of the bundle's SHA256SUMS, as the build printed it. */
    fun start(address: String, pin: String) {
        val begun = Download(address, pin, store)
        download = begun
        progress = null
        failure = null
        arrived = null
        changed()
        val newest = AtomicReference<DownloadProgress?>()
        thread(name = "download") {
            try {
                val folder = begun.run({ manifest -> checkHost(manifest, host()) }, { show(begun, it, newest) })
                onMain {
                    arrived = folder
                    download = null
                }
            } catch (error: VideoGptException) {
                onMain {
                    failure = error
                    download = null
                }
            }
        }
    }

    fun cancel() {
        download?.cancel()
    }

    /** Every buffer of the network brings progress: only the [newest] is kept, and one post waits at a time. */
    private fun show(begun: Download, progress: DownloadProgress, newest: AtomicReference<DownloadProgress?>) {
        if (newest.getAndSet(progress) != null) return // the post that waits shows this one
        main.postDelayed({
            val shown = newest.getAndSet(null)
            if (download === begun) {
                this.progress = shown
                changed()
            }
        }, PROGRESS_MS)
    }

    private fun onMain(news: () -> Unit) {
        main.post {
            news()
            changed()
        }
    }

    private companion object {
        const val PROGRESS_MS = 200L
    }
}
