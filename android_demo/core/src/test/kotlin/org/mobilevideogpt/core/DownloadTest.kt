package org.mobilevideogpt.core

import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.atomic.AtomicReference
import kotlin.concurrent.thread
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class DownloadTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle by lazy { SmallBundle(temporary.newFolder("bundle")) }
    private val server by lazy { FileServer(bundle.folder) }
    private val store by lazy { File(temporary.root, "store") }
    private val large = "decoder.pte" // 3,000 bytes, and the next to it 143,000
    private val larger = "video_encoder.pte"

    @After
    fun stop() = server.close()

    private fun download(pin: String = bundle.pin, address: String = server.address) = Download(address, pin, store)

    private fun checkWhole() {
        val files = bundle.folder.walk().filter { it.isFile }.toList()
        for (file in files) {
            same(file.name, file.readBytes(), File(File(store, bundle.pin), file.relativeTo(bundle.folder).path).readBytes())
        }
        assertEquals(files.size, File(store, bundle.pin).walk().count { it.isFile })
        assertEquals("something else is left in the store", listOf(bundle.pin), store.list()!!.toList())
        openBundle(File(store, bundle.pin), Host({ 1L shl 40 }, false), File(temporary.root, "stamps"), verify = true)
    }

    @Test
    fun `a bundle arrives whole, and once`() {
        val progress = ArrayList<DownloadProgress>()
        val folder = download().run(progress = { progress += it })
        assertEquals(File(store, bundle.pin), folder)
        checkWhole()
        assertEquals(progress.map { it.doneBytes }.sorted(), progress.map { it.doneBytes })
        assertEquals(progress.last().totalBytes, progress.last().doneBytes)
        server.requests.clear()
        assertEquals(folder, download(" ${bundle.pin.uppercase()}\n").run())
        assertTrue("asked again: ${server.requests}", server.requests.isEmpty())
    }

    @Test
    fun `cut connections are taken up where they broke`() {
        server.cutAfter = { path -> if (path == larger) 50_000 else null }
        download().run()
        checkWhole()
        val asked = server.requestsOf(larger)
        assertEquals(null, asked.first())
        assertTrue("$asked", asked.size >= 3 && asked.drop(1).all { it!!.startsWith("bytes=") && it != "bytes=0-" })
    }

    @Test
    fun `the same where no size is announced`() {
        server.announces = false
        server.cutAfter = { path -> if (path == larger) 60_000 else null }
        download().run()
        checkWhole()
    }

    @Test
    fun `a later try goes on`() {
        val broken = AtomicInteger()
        server.cutAfter = { path -> if (path == larger) (if (broken.getAndIncrement() == 0) 50_000 else 0) else null }
        says(thrown<VideoGptException.NoConnection> { download().run() }, larger, "no connection", "what has arrived is kept")
        assertFalse(File(store, bundle.pin).exists())
        server.cutAfter = { null }
        server.requests.clear()
        download().run()
        checkWhole()
        assertTrue("${server.requestsOf(larger)}", server.requestsOf(larger).single()!!.matches(Regex("bytes=[1-9][0-9]*-")))
        val again = server.requestsOf(SUMS_FILE) + server.requestsOf("image_encoder.pte")
        assertTrue("whole files were asked for again", again.isEmpty())
    }

    @Test
    fun `a server without ranges starts the file again`() {
        val times = AtomicInteger()
        server.ranges = false
        server.cutAfter = { path -> if (path == larger && times.getAndIncrement() < 2) 60_000 else null }
        download().run()
        checkWhole()
    }

    @Test
    fun `what was pinned is all that is believed`() {
        val other = "0".repeat(64)
        says(thrown<VideoGptException.WrongHash> { download(other).run() }, SUMS_FILE, bundle.pin, other)
        for (path in listOf(larger, MANIFEST_FILE, "README.md", SUMS_FILE)) {
            store.deleteRecursively()
            server.replaced = { asked, bytes -> if (asked == path) bytes.clone().also { it[0]++ } else bytes }
            says(thrown<VideoGptException.WrongHash> { download().run() }, path, "its SHA-256 is")
            assertFalse(path, File(store, bundle.pin).exists())
        }
        server.replaced = { _, bytes -> bytes }
        download().run()
        checkWhole()
    }

    @Test
    fun `a beginning that fits nothing any more is thrown away`() {
        server.cutAfter = { path -> if (path == larger) 0 else null }
        thrown<VideoGptException.NoConnection> { download().run() }
        val partial = File(store, "${bundle.pin}.part/$larger.partial")
        partial.writeBytes(ByteArray(70_000) { 1 })
        server.cutAfter = { null }
        download().run()
        checkWhole()
    }

    @Test
    fun `files that are too long or too short are not taken`() {
        server.replaced = { path, bytes -> if (path == larger) bytes + ByteArray(3_000_000) else bytes }
        thrown<VideoGptException.WrongHash> { download().run() }
        server.replaced = { path, bytes -> if (path == larger) bytes.copyOf(1000) else bytes }
        thrown<VideoGptException.WrongHash> { download().run() }
        store.deleteRecursively()
        server.replaced = { path, bytes -> if (path == "README.md") ByteArray(9_000_000) else bytes }
        thrown<VideoGptException.WrongHash> { download().run() }
        server.replaced = { _, bytes -> bytes }
        download().run()
        checkWhole()
    }

    @Test
    fun `a list that leads out of the folder is refused`() {
        val lines = bundle.sums()
        val hash = "a".repeat(64)
        val bad = listOf(
            "$hash  ../evil", "$hash  /etc/passwd", "$hash  a/../../b", "$hash  a\\b", "$hash b", "$hash *b", "xyz", "${"A".repeat(64)}  b",
            "$hash  $SUMS_FILE", "$hash  b.partial", lines.first(),
        )
        for (line in bad) {
            bundle.writeSums(lines + line)
            says(thrown<VideoGptException.BadListing> { download().run() }, SUMS_FILE, "no list of a bundle's files")
        }
        bundle.writeSums(lines.filter { MANIFEST_FILE !in it })
        says(thrown<VideoGptException.BadListing> { download().run() }, "does not list manifest.json")
        assertTrue(temporary.root.walk().none { it.name == "evil" })
    }

    @Test
    fun `cancelling keeps what has arrived`() {
        val begun = CountDownLatch(1)
        server.sending = { path ->
            if (path == larger) {
                begun.countDown()
                Thread.sleep(200)
            }
        }
        val download = download()
        val error = AtomicReference<Throwable>()
        val runner = thread { try { download.run() } catch (e: Throwable) { error.set(e) } }
        begun.await()
        Thread.sleep(500)
        val before = System.nanoTime()
        download.cancel()
        runner.join(10_000)
        assertTrue("cancelling took too long", (System.nanoTime() - before) / 1e9 < 2)
        assertTrue("${error.get()}", error.get() is VideoGptException.Cancelled)
        thrown<VideoGptException.Cancelled> { download.run() }
        server.sending = {}
        server.requests.clear()
        download().run()
        checkWhole()
        assertTrue("${server.requestsOf(larger)}", server.requestsOf(larger).single() != null)
    }

    @Test
    fun `two at once download one`() {
        server.sending = { Thread.sleep(5) }
        val threads = List(3) { thread { download().run() } }
        threads.forEach { it.join() }
        checkWhole()
        assertEquals(1, server.requestsOf(larger).size)
    }

    @Test
    fun `an unsuitable bundle is refused before its large files are asked for`() {
        bundle.writeManifest { it["kernels"] = "fused"; it["custom_operators"] = listOf("videogpt::scan.out") }
        bundle.writeSums()
        val host = Host({ 1L shl 40 }, customOperators = false)
        says(thrown<VideoGptException.MissingOperators> { download().run({ checkHost(it, host) }) }, "videogpt::scan.out")
        bundle.writeManifest { it["schema_version"] = JsonNumber("99") }
        bundle.writeSums()
        thrown<VideoGptException.NewerBundle> { download().run() }
        assertTrue("${server.requests}", server.requests.all { it.first in listOf(SUMS_FILE, MANIFEST_FILE) })
    }

    @Test
    fun `a bundle that does not fit the disk is refused before it is asked for`() {
        bundle.writeManifest { it.at("files", "reference.npz")["bytes"] = JsonNumber("${1L shl 60}") }
        bundle.writeSums()
        says(thrown<VideoGptException.DiskFull> { download().run() }, "takes 115", "are free")
        assertTrue("${server.requests}", server.requests.all { it.first in listOf(SUMS_FILE, MANIFEST_FILE) })
    }

    @Test
    fun `a store that cannot be written is named`() {
        store.writeText("a file")
        says(thrown<VideoGptException.StorageFailed> { download().run() }, "$store", "cannot be written")
    }

    @Test
    fun `only safe addresses are asked`() {
        val refused = listOf(
            "http://example.org/b", "ftp://127.0.0.1/b", "file:///etc", "127.0.0.1", "", "https://", "https://ex ample.org",
            "http://127.0.0.1.example.org/",
            "http://localhost@example.org/b",
        )
        for (address in refused) says(thrown<VideoGptException.BadAddress> { download(address = address).run() }, "https://")
        says(thrown<VideoGptException.BadAddress> { download(address = "https://example.org/b?token=1").run() }, "has a query")
        server.redirects = { "http://example.org/$it" }
        says(thrown<VideoGptException.BadAddress> { download().run() }, "http://example.org", "https://")
        for (pin in listOf("", "abc", "g".repeat(64))) {
            says(thrown<VideoGptException.BadOption> { download(pin).run() }, "SHA-256 of 64 hex digits")
        }
    }

    @Test
    fun `redirections are followed, but not in circles`() {
        server.redirects = { path -> if (path.startsWith("moved/")) null else "/bundle/moved/$path" }
        bundle.folder.copyRecursively(File(bundle.folder.parentFile, "copy"))
        File(bundle.folder.parentFile, "copy").renameTo(File(bundle.folder, "moved"))
        download().run()
        File(bundle.folder, "moved").deleteRecursively()
        checkWhole()
        store.deleteRecursively()
        server.redirects = { "/bundle/$it" }
        says(thrown<VideoGptException.ServerRefused> { download().run() }, "redirection")
    }

    @Test
    fun `no server and no file are two things`() {
        File(bundle.folder, large).delete()
        says(thrown<VideoGptException.ServerRefused> { download().run() }, large, "404")
        server.close()
        says(thrown<VideoGptException.NoConnection> { download().run() }, "no connection", "try again")
    }
}
