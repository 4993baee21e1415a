package org.mobilevideogpt.core

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.net.InetAddress
import java.net.InetSocketAddress
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.Executors

/** A server of a folder's files on this machine, which can behave badly. */
internal class FileServer(private val folder: File) : Closeable {
    /** Path and the `Range` header of every request, `null` where it had none. */
    val requests = ConcurrentLinkedQueue<Pair<String, String?>>()

    var ranges = true

    /** After so many bytes of a body the connection is cut. */
    var cutAfter: (path: String) -> Int? = { null }

    /** What is sent in a file's place. */
    var replaced: (path: String, bytes: ByteArray) -> ByteArray = { _, bytes -> bytes }

    /** Whether the size is announced; without, the end of the connection ends the body. */
    var announces = true

    /** Whether the client hears where the file is instead. */
    var redirects: (path: String) -> String? = { null }

    /** Called before each part of a body. */
    var sending: (path: String) -> Unit = {}

    private val threads = Executors.newCachedThreadPool()
    private val server = HttpServer.create(InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 0).apply {
        executor = threads
        createContext("/bundle/") { exchange -> answer(exchange) }
        start()
    }

    val address get() = "http://127.0.0.1:${server.address.port}/bundle"

    fun requestsOf(path: String): List<String?> = requests.filter { it.first == path }.map { it.second }

    override fun close() {
        server.stop(0)
        threads.shutdownNow()
    }

    private fun answer(exchange: HttpExchange) {
        val path = exchange.requestURI.path.removePrefix("/bundle/")
        val range = exchange.requestHeaders.getFirst("Range")
        requests += path to range
        redirects(path)?.let {
            exchange.responseHeaders.add("Location", it)
            exchange.sendResponseHeaders(302, -1)
            return exchange.close()
        }
        val file = File(folder, path)
        if (!file.isFile) {
            exchange.sendResponseHeaders(404, -1)
            return exchange.close()
        }
        send(exchange, path, replaced(path, file.readBytes()), range)
    }

    private fun send(exchange: HttpExchange, path: String, bytes: ByteArray, range: String?) {
        val from = if (ranges && range != null) range.removePrefix("bytes=").removeSuffix("-").toInt() else 0
        if (from > 0 && from >= bytes.size) {
            exchange.sendResponseHeaders(416, -1)
            return exchange.close()
        }
        if (ranges && range != null) exchange.responseHeaders.add("Content-Range", "bytes $from-${bytes.size - 1}/${bytes.size}")
        val status = if (ranges && range != null) 206 else 200
        exchange.sendResponseHeaders(status, if (announces) (bytes.size - from).toLong() else 0L)
        val end = minOf(bytes.size, from + (cutAfter(path) ?: bytes.size))
        try {
            var at = from
            while (at < end) {
                sending(path)
                val count = minOf(8192, end - at)
                exchange.responseBody.write(bytes, at, count)
                exchange.responseBody.flush()
                at += count
            }
            if (end == bytes.size) exchange.responseBody.close()
        } catch (_: IOException) {
            // The client has left.
        }
        exchange.close() // with bytes missing this cuts the connection
    }
}
