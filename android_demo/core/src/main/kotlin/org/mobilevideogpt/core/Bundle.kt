package org.mobilevideogpt.core

import java.io.File
import java.io.IOException
import java.security.MessageDigest

private const val TOKENIZER_FILE = "tokenizer.json"

/**
 * What this phone and this app bring along.
 *
 * availableBytes: memory that may be used, asked when a bundle is checked: the one before it is freed by then. customOperators: whether
 * the app was linked with this project's kernels. targets and delegates: what its runtime runs, in the manifest's words.
 */
class Host(
    val availableBytes: () -> Long,
    val customOperators: Boolean,
    val targets: Set<String> = setOf("executorch"),
    val delegates: Set<String> = setOf("xnnpack", "none"),
)

/** A bundle whose files were checked: what [openBundle] returns. */
class Bundle internal constructor(val folder: File, val manifest: Manifest) {

    /** The file of one of the seven graphs. */
    fun graphFile(graph: String): File =
        File(folder, requireNotNull(manifest.graphs[graph]) { "there is no graph $graph; there are ${GRAPHS.joinToString(", ")}" }.file)

    /** Whether the bundle can be asked in words. */
    val hasTokenizer: Boolean get() = TOKENIZER_FILE in manifest.files

    /** Reads the tokenizer: seconds at the released size. Errors: [VideoGptException.NoTokenizer], [VideoGptException.BadFile]. */
    fun tokenizer(): Tokenizer =
        if (hasTokenizer) Tokenizer.read(File(folder, TOKENIZER_FILE)) else throw VideoGptException.NoTokenizer("$folder")

    /** The golden vectors that the build stored. Errors as of [Golden.read]. */
    fun golden(): Golden = Golden.read(folder)
}

/** Folders of [store] with a manifest in them, by name; not those of a push (hidden) or of a download (`.part`) that is not whole yet. */
fun bundlesIn(store: File): List<File> =
    store.listFiles { file -> !file.name.startsWith(".") && file.extension != "part" && File(file, MANIFEST_FILE).isFile }
        .orEmpty().sortedBy { it.name }

/**
 * Checks a bundle and returns it. Every byte is hashed the first time, after a change, and whenever [verify] is true; else sizes and
 * modification times are compared with those remembered in the folder [stamps], which is not the bundle's own: a copy is hashed again.
 * [progress] gets the share of bytes hashed so far, 0 to 1.
 *
 * Errors, in this order: those of [Manifest.read]; those of [checkHost];
 * [VideoGptException.MissingFile], [VideoGptException.ChangedFile], [VideoGptException.UnreadableFile].
 */
fun openBundle(folder: File, host: Host, stamps: File, verify: Boolean = false, progress: (Double) -> Unit = {}): Bundle {
    val manifest = Manifest.read(folder)
    checkHost(manifest, host)
    val seen = look(folder, manifest)
    val stamp = Stamp(File(stamps, sha256(folder.canonicalPath.toByteArray()) + ".txt"))
    if (verify || stamp.read() != seen) {
        checkHashes(folder, manifest, progress)
        stamp.write(seen) // what was seen before hashing: a change while hashing shows next time
    }
    return Bundle(folder, manifest)
}

/**
 * Whether this phone and app can run such a bundle. Errors: [VideoGptException.WrongTarget], [VideoGptException.WrongDelegate],
 * [VideoGptException.MissingOperators], [VideoGptException.DoesNotFit].
 */
fun checkHost(manifest: Manifest, host: Host) {
    if (manifest.target !in host.targets) throw VideoGptException.WrongTarget(manifest.target, host.targets)
    val delegates = manifest.graphs.values.map { it.delegate }.distinct()
    delegates.firstOrNull { it !in host.delegates }?.let { throw VideoGptException.WrongDelegate(it, host.delegates) }
    if (!host.customOperators && (manifest.kernels == "fused" || manifest.customOperators.isNotEmpty())) {
        throw VideoGptException.MissingOperators(manifest.customOperators)
    }
    val available = host.availableBytes()
    if (manifest.expectedMemoryBytes > available) throw VideoGptException.DoesNotFit(manifest.expectedMemoryBytes, available)
}

/** The manifest's digest, and size and modification time of every file, once each is as large as the manifest says. */
private fun look(folder: File, manifest: Manifest): String = buildString {
    append(manifest.digest).append('\n')
    for ((name, entry) in manifest.entries.toSortedMap()) {
        val file = File(folder, name)
        if (!file.isFile) throw VideoGptException.MissingFile("$file")
        val size = file.length()
        if (size != entry.bytes) throw VideoGptException.ChangedFile("$file", "has $size bytes where ${entry.bytes} were built")
        append(name).append(' ').append(size).append(' ').append(file.lastModified()).append('\n')
    }
}

private fun checkHashes(folder: File, manifest: Manifest, progress: (Double) -> Unit) {
    val entries = manifest.entries
    val total = maxOf(entries.values.sumOf { it.bytes }, 1)
    var done = 0L
    for ((name, entry) in entries) {
        val file = File(folder, name)
        val found = hashFile(file) { progress((done + it).toDouble() / total) }
        if (found != entry.sha256) throw VideoGptException.ChangedFile("$file", "its contents are not those that were built")
        done += entry.bytes
    }
}

/** SHA-256 of a file, in hex. [progress] gets the bytes read so far. Errors: [VideoGptException.UnreadableFile]. */
internal fun hashFile(file: File, progress: (Long) -> Unit = {}): String = try {
    val digest = MessageDigest.getInstance("SHA-256")
    val buffer = ByteArray(1 shl 18)
    var read = 0L
    file.inputStream().use { stream ->
        while (true) {
            val count = stream.read(buffer)
            if (count < 0) break
            digest.update(buffer, 0, count)
            read += count
            progress(read)
        }
    }
    hex(digest.digest())
} catch (error: IOException) {
    throw VideoGptException.UnreadableFile("$file", error.message ?: "no reason given", error)
}

/** What was seen of a bundle when its hashes were right: one file for each folder. */
private class Stamp(private val file: File) {

    fun read(): String? = try {
        file.readText()
    } catch (_: IOException) {
        null // as good as none: the files are hashed
    }

    fun write(seen: String) {
        try {
            file.parentFile?.mkdirs()
            val new = File.createTempFile(file.name, ".new", file.parentFile)
            new.writeText(seen)
            if (!new.renameTo(file)) new.delete()
        } catch (_: IOException) {
            // Stamps that cannot be written cost time, not correctness.
        }
    }
}
