package org.mobilevideogpt.core

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class BundleTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val small by lazy { SmallBundle(temporary.newFolder("bundle")) }
    private val stamps by lazy { File(temporary.root, "not/made/yet") }
    private val host = Host(availableBytes = { 300_000_000 }, customOperators = false)

    private fun open(host: Host = this.host, verify: Boolean = false): Bundle = openBundle(small.folder, host, stamps, verify)

    @Test
    fun `a real bundle opens, with its tokenizer`() {
        val bundle = openBundle(folders("bundle").single(), Host({ Long.MAX_VALUE }, customOperators = true), stamps)
        assertTrue(bundle.graphFile("decoder").isFile)
        assertEquals("circle", bundle.tokenizer().let { it.decode(it.encode("circle")) })
    }

    @Test
    fun `a missing, a cut and a changed file are named`() {
        val file = File(small.folder, "decoder.pte")
        val bytes = file.readBytes()
        file.writeBytes(bytes.copyOf(bytes.size - 1))
        val cut = thrown<VideoGptException.ChangedFile> { open() }
        says(cut, "$file", "has ${bytes.size - 1} bytes where ${bytes.size} were built", "copy")
        file.writeBytes(bytes.also { it[5]++ })
        says(thrown<VideoGptException.ChangedFile> { open() }, "$file", "not those that were built")
        file.delete()
        says(thrown<VideoGptException.MissingFile> { open() }, "$file", "is missing")
        file.mkdir()
        says(thrown<VideoGptException.MissingFile> { open() }, "$file", "is missing")
    }

    @Test
    fun `hashes are checked once, and again after a change`() {
        var hashed = 0
        fun opened(verify: Boolean = false) = openBundle(small.folder, host, stamps, verify) { hashed++ }
        opened()
        assertTrue(hashed > 0)
        hashed = 0
        opened()
        assertEquals("hashed a second time", 0, hashed)

        val file = File(small.folder, "image_encoder.pte")
        val time = file.lastModified()
        file.writeBytes(file.readBytes().also { it[0]++ })
        file.setLastModified(time)
        opened() // size and time are all that is looked at
        thrown<VideoGptException.ChangedFile> { opened(verify = true) }
        file.setLastModified(time + 2000)
        thrown<VideoGptException.ChangedFile> { opened() }
        thrown<VideoGptException.ChangedFile> { opened() } // a failure is not remembered as a success
    }

    @Test
    fun `progress grows to all of it`() {
        val shares = ArrayList<Double>()
        openBundle(small.folder, host, stamps) { shares += it }
        assertEquals(shares.sorted(), shares)
        assertEquals(1.0, shares.last(), 1e-9)
    }

    @Test
    fun `stamps that cannot be kept cost time only`() {
        stamps.parentFile.mkdirs()
        stamps.writeText("a file where a folder should be")
        repeat(2) { open() }
    }

    @Test
    fun `a damaged stamp is none`() {
        open()
        val stamp = stamps.listFiles()!!.single()
        stamp.writeText("rubbish")
        File(small.folder, "decoder.pte").apply { writeBytes(readBytes().also { it[0]++ }) }
        thrown<VideoGptException.ChangedFile> { open() }
    }

    @Test
    fun `what the phone cannot run is refused before anything is hashed`() {
        File(small.folder, "decoder.pte").delete()
        val poor = Host(availableBytes = { 299_000_000 }, customOperators = false)
        says(thrown<VideoGptException.DoesNotFit> { open(poor) }, "needs 300 MB", "299 MB are available")
        val other = Host({ 1L shl 40 }, true, setOf("onnx"))
        says(thrown<VideoGptException.WrongTarget> { open(other) }, "built for executorch", "--target onnx")
        small.writeManifest { it["kernels"] = "fused"; it["custom_operators"] = listOf("videogpt::scan.out") }
        says(thrown<VideoGptException.MissingOperators> { open() }, "videogpt::scan.out", "--kernels stock")
        thrown<VideoGptException.MissingFile> { open(Host({ 1L shl 40 }, customOperators = true)) }
        small.writeManifest { it.at("graphs", "decoder")["delegate"] = "coreml" }
        says(thrown<VideoGptException.WrongDelegate> { open() }, "delegate coreml", "--delegate xnnpack")
        small.writeManifest { it["target"] = "coreml" }
        says(thrown<VideoGptException.WrongTarget> { open() }, "built for coreml", "--target executorch")
    }

    @Test
    fun `only whole bundles are listed`() {
        val store = temporary.newFolder("store")
        for (name in listOf("b", "a", ".c.partial", "d.part", "empty")) File(store, name).mkdir()
        for (name in listOf("b", "a", ".c.partial", "d.part")) File(store, "$name/$MANIFEST_FILE").writeText("{}")
        File(store, "file").writeText("no folder")
        assertEquals(listOf("a", "b"), bundlesIn(store).map { it.name })
        assertEquals(emptyList<File>(), bundlesIn(File(store, "nowhere")))
    }

    @Test
    fun `a bundle without a tokenizer says so`() {
        val bundle = open()
        assertFalse(bundle.hasTokenizer)
        says(thrown<VideoGptException.NoTokenizer> { bundle.tokenizer() }, "tokenizer.json")
        says(thrown<VideoGptException.MissingFile> { bundle.golden() }, "golden.json")
    }

    @Test
    fun `golden vectors that are cut off are refused`() {
        val folder = folders("golden").first()
        val copy = temporary.newFolder("golden")
        File(folder, "golden.json").copyTo(File(copy, "golden.json"))
        File(copy, "golden.bin").writeBytes(ByteArray(1000))
        says(thrown<VideoGptException.BadFile> { Golden.read(copy) }, "golden.json", "golden.bin is too short")
    }
}
