package org.mobilevideogpt.core

import java.io.File
import java.net.URI
import java.net.URISyntaxException
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock

/** The list of a bundle's files and their hashes; its own SHA-256 is the bundle's pin. */
const val SUMS_FILE = "SHA256SUMS"

/** How far a download is: bytes of the whole bundle on this phone, of [totalBytes] (0 until the manifest has arrived). */
class DownloadProgress(val file: String, val doneBytes: Long, val totalBytes: Long)

/**
 * One download of a bundle from the folder at [address], whose `SHA256SUMS` has the SHA-256 [pin] (hex): nothing else is believed.
 *
 * A bundle is kept once, in the folder of [store] that its pin names; a second request for it downloads nothing. What has arrived
 * of an unfinished one waits beside it, and the next try goes on from there, across restarts. The folder gets its name when all of it
 * is there and every hash is right.
 */
class Download(private val address: String, pin: String, private val store: File) {
    private val pin = pin.trim().lowercase()
    private val transfer = Transfer()

    /** Where the bundle is, or will be. */
    val folder: File get() = File(store, pin)

    private val unfinished = File(store, "${this.pin}.part")

    /** Ends [run], which throws [VideoGptException.Cancelled]. From any thread. */
    fun cancel() = transfer.cancel()

    /**
     * Blocks until the bundle is there, and returns its folder. [accept] sees the manifest before the large files are asked for, and
     * throws where this phone has no use for the bundle: see [checkHost].
     *
     * Errors: [VideoGptException.BadOption] for a pin that is none, [VideoGptException.BadAddress] for one that is not HTTPS (HTTP is
     * taken from the phone itself), [VideoGptException.NoConnection], [VideoGptException.ServerRefused],
     * [VideoGptException.WrongHash] where something else arrives than was pinned, [VideoGptException.BadListing],
     * [VideoGptException.DiskFull], [VideoGptException.StorageFailed], [VideoGptException.Cancelled], those of [Manifest.read].
     */
    fun run(accept: (Manifest) -> Unit = {}, progress: (DownloadProgress) -> Unit = {}): File {
        if (!isSha256(pin)) {
            throw VideoGptException.BadOption(
                "the hash must be a SHA-256 of 64 hex digits: copy what export.build printed as the bundle's pin",
            )
        }
        if (folder.isDirectory) return folder
        val base = baseAddress()
        val lock = running.getOrPut(unfinished.absoluteFile) { ReentrantLock() }
        while (!lock.tryLock(POLL_MS, TimeUnit.MILLISECONDS)) transfer.check()
        try {
            if (!folder.isDirectory) fetch(base, accept, progress)
            return folder
        } finally {
            lock.unlock()
        }
    }

    private fun fetch(base: URI, accept: (Manifest) -> Unit, progress: (DownloadProgress) -> Unit) {
        makeFolder(unfinished)
        get(base, SUMS_FILE, pin, null) {}
        val sums = readSums(base)
        get(base, MANIFEST_FILE, sums.getValue(MANIFEST_FILE), null) {}
        val manifest = Manifest.read(unfinished)
        accept(manifest)
        val sizes = manifest.entries.mapValues { it.value.bytes }
        checkSpace(sizes)
        for ((path, hash) in sums) {
            val others = sizes.keys.filter { it != path }.sumOf { arrived(it) }
            get(base, path, hash, sizes[path]) { size ->
                progress(DownloadProgress(path, minOf(others + size, manifest.bundleBytes), manifest.bundleBytes))
            }
        }
        if (!unfinished.renameTo(folder)) throw VideoGptException.StorageFailed("$folder", "the folder cannot be renamed")
    }

    /** One file of the bundle, whole and checked, as one that is there already is. [size] in bytes, where it is known. */
    private fun get(base: URI, path: String, hash: String, size: Long?, arrived: (Long) -> Unit) {
        val file = File(unfinished, path)
        if (file.isFile) return
        val partial = partial(path)
        makeFolder(file.parentFile!!)
        val place = base.resolve(path)
        val begun = partial.length() > 0
        val append = { transfer.append(place, partial, size ?: SMALL_FILE_LIMIT, exact = size != null, arrived) }
        if (!begun || partial.length() != size) append()
        var found = hashFile(partial)
        if (found != hash && begun) { // what was there may be the beginning of something else
            partial.delete()
            append()
            found = hashFile(partial)
        }
        transfer.check()
        if (found != hash) {
            partial.delete()
            throw VideoGptException.WrongHash("$place", hash, found)
        }
        if (!partial.renameTo(file)) throw VideoGptException.StorageFailed("$file", "the file cannot be renamed")
    }

    /** Path to hash, in the list's order. A path that leaves the folder is refused. */
    private fun readSums(base: URI): Map<String, String> {
        val place = base.resolve(SUMS_FILE).toString()
        val sums = LinkedHashMap<String, String>()
        for (line in readText(File(unfinished, SUMS_FILE)).split('\n').filter { it.isNotEmpty() }) {
            val hash = line.take(64)
            val path = line.drop(66)
            val plain = isSha256(hash) && line.startsWith("  ", 64) && isInnerPath(path) && path != SUMS_FILE && !path.endsWith(PARTIAL)
            if (!plain || sums.put(path, hash) != null) throw VideoGptException.BadListing(place, "the line ${quoted(line)}")
        }
        if (MANIFEST_FILE !in sums) throw VideoGptException.BadListing(place, "it does not list $MANIFEST_FILE")
        return sums
    }

    private fun checkSpace(sizes: Map<String, Long>) {
        val needed = sizes.entries.sumOf { (path, bytes) -> maxOf(bytes - arrived(path), 0) } + ALMOST_FULL_BYTES
        val free = store.usableSpace
        if (needed > free) throw VideoGptException.DiskFull(needed, free)
    }

    /** Bytes of a file that are here, whole or not. */
    private fun arrived(path: String): Long = File(unfinished, path).let { if (it.isFile) it.length() else partial(path).length() }

    private fun partial(path: String) = File(unfinished, path + PARTIAL)

    private fun baseAddress(): URI {
        val trimmed = address.trim().trimEnd('/')
        val base = try {
            URI("$trimmed/")
        } catch (error: URISyntaxException) {
            throw VideoGptException.BadAddress(trimmed, "is no address: give one that begins with https://")
        }
        Transfer.checkSafe(base)
        if (base.rawQuery != null || base.rawFragment != null) {
            throw VideoGptException.BadAddress(trimmed, "has a query: give the address of the bundle's folder alone")
        }
        return base
    }

    private fun makeFolder(folder: File) {
        if (!folder.isDirectory && !folder.mkdirs()) throw VideoGptException.StorageFailed("$folder", "the folder cannot be made")
    }

    private companion object {
        const val PARTIAL = ".partial"
        const val SMALL_FILE_LIMIT = 4_000_000L // of the list, the manifest, and a file that the manifest does not name
        const val POLL_MS = 200L

        /** Two downloads of one bundle into one folder take turns: the second one finds it there. */
        val running = ConcurrentHashMap<File, ReentrantLock>()
    }
}
