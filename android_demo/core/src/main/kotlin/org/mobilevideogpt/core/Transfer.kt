package org.mobilevideogpt.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.URI
import java.net.URISyntaxException
import java.net.UnknownHostException
import java.util.concurrent.TimeUnit

/** HTTPS GETs whose bytes are appended to a file. One thread runs them, any other may [cancel]. */
internal class Transfer {
    @Volatile
    private var cancelled = false

    @Volatile
    private var connection: HttpURLConnection? = null

    /** Ends the request that runs and refuses others: [VideoGptException.Cancelled]. Returns at once, also on the main thread. */
    fun cancel() {
        cancelled = true
        val open = connection ?: return
        Thread({ open.disconnect() }, "cancel download").apply { isDaemon = true }.start() // it may write to the network
    }

    fun check() {
        if (cancelled) throw VideoGptException.Cancelled()
    }

    /**
     * Gets what is missing of [address] behind the bytes that [file] has, or all of it from a server without ranges: up to one byte more
     * than [limit], so that a file that is too long shows; with [exact], less means that the connection broke off. One that breaks is
     * made again as long as each brings some bytes. [arrived] gets the file's size now and then.
     */
    fun append(address: URI, file: File, limit: Long, exact: Boolean, arrived: (Long) -> Unit) {
        var triesLeft = FRUITLESS_TRIES
        while (true) {
            val before = file.length()
            try {
                return once(address, file, before, limit, exact, arrived)
            } catch (error: IOException) {
                check()
                if (file.length() <= before && --triesLeft == 0) throw VideoGptException.NoConnection("$address", reason(error), error)
                TimeUnit.MILLISECONDS.sleep(PAUSE_MS)
            }
        }
    }

    private fun once(address: URI, file: File, have: Long, limit: Long, exact: Boolean, arrived: (Long) -> Unit) {
        val open = connect(address, have)
        try {
            when (val status = open.responseCode) {
                HttpURLConnection.HTTP_PARTIAL -> {
                    val continues = open.getHeaderField("Content-Range")?.startsWith("bytes $have-") == true
                    if (!continues) throw VideoGptException.ServerRefused("$address", "another part of the file than it was asked for")
                    copy(open, file, have, limit, exact, arrived)
                }
                HttpURLConnection.HTTP_OK -> copy(open, file, 0, limit, exact, arrived) // of a server without ranges: from the beginning
                RANGE_NOT_SATISFIABLE -> if (have == 0L) throw VideoGptException.ServerRefused("$address", "status $status")
                else -> throw VideoGptException.ServerRefused("$address", "status $status")
            }
        } finally {
            connection = null
            open.disconnect()
        }
    }

    /** Follows redirections by itself: each address must be as safe as the first. */
    private fun connect(address: URI, have: Long): HttpURLConnection {
        var place = address
        repeat(REDIRECTIONS) {
            checkSafe(place)
            check()
            val open = place.toURL().openConnection() as HttpURLConnection
            connection = open
            open.instanceFollowRedirects = false
            open.useCaches = false
            open.connectTimeout = TIMEOUT_MS
            open.readTimeout = TIMEOUT_MS
            open.setRequestProperty("Accept-Encoding", "identity") // else lengths and ranges are of something compressed
            if (have > 0) open.setRequestProperty("Range", "bytes=$have-")
            if (open.responseCode !in REDIRECTED) return open
            val target = open.getHeaderField("Location")
            open.disconnect()
            place = try {
                place.resolve(URI(target ?: ""))
            } catch (error: URISyntaxException) {
                throw VideoGptException.BadAddress("$address", "the server redirects to no address")
            }
        }
        throw VideoGptException.ServerRefused("$address", "one redirection after another")
    }

    private fun copy(open: HttpURLConnection, file: File, from: Long, limit: Long, exact: Boolean, arrived: (Long) -> Unit) {
        var size = from
        val announced = open.getHeaderField("Content-Length")?.trim()?.toLongOrNull()
        open.inputStream.use { stream ->
            storing(file) { FileOutputStream(file, from > 0) }.use { out ->
                val buffer = ByteArray(1 shl 16)
                while (size <= limit) {
                    check()
                    val count = stream.readSome(buffer, limit + 1 - size)
                    if (count < 0) break
                    storing(file) { out.write(buffer, 0, count) }
                    size += count
                    arrived(size)
                }
                storing(file) { out.fd.sync() }
            }
        }
        val least = if (exact) limit else minOf(from + (announced ?: 0), limit)
        if (size < least) throw IOException("the connection broke off")
    }

    private fun InputStream.readSome(buffer: ByteArray, most: Long): Int = read(buffer, 0, minOf(most, buffer.size.toLong()).toInt())

    companion object {
        private const val TIMEOUT_MS = 20_000
        private const val PAUSE_MS = 300L
        private const val FRUITLESS_TRIES = 3
        private const val REDIRECTIONS = 6
        private const val RANGE_NOT_SATISFIABLE = 416
        private val REDIRECTED = setOf(301, 302, 303, 307, 308)
        private val LOOPBACK = setOf("localhost", "127.0.0.1", "[::1]")

        /** Refuses what is not encrypted, but for servers on the phone itself. Errors: [VideoGptException.BadAddress]. */
        fun checkSafe(address: URI) {
            val scheme = address.scheme?.lowercase()
            val host = address.host ?: ""
            if (host.isNotEmpty() && (scheme == "https" || (scheme == "http" && host.lowercase() in LOOPBACK))) return
            throw VideoGptException.BadAddress("$address", "is no https:// address of a server: give one")
        }

        private fun reason(error: IOException) =
            if (error is UnknownHostException) "no server of this name is known" else error.message ?: error.javaClass.simpleName
    }
}

/** Runs what writes to [file]. Errors: [VideoGptException.DiskFull], [VideoGptException.StorageFailed]. */
internal inline fun <T> storing(file: File, write: () -> T): T = try {
    write()
} catch (error: IOException) {
    val free = file.absoluteFile.parentFile?.usableSpace ?: Long.MAX_VALUE
    if (free < ALMOST_FULL_BYTES) throw VideoGptException.DiskFull(ALMOST_FULL_BYTES, free)
    throw VideoGptException.StorageFailed("$file", error.message ?: "no reason given", error)
}

/** Less free space than this is none. */
internal const val ALMOST_FULL_BYTES = 4_000_000L
