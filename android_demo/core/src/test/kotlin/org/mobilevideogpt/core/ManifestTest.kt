package org.mobilevideogpt.core

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class ManifestTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle by lazy { SmallBundle(temporary.newFolder("bundle")) }

    @Test
    fun `a real bundle's manifest is read`() {
        val folder = folders("bundle").single()
        val manifest = Manifest.read(folder)
        assertEquals("executorch", manifest.target)
        assertEquals(GRAPHS.toSet(), manifest.graphs.keys)
        assertEquals(16, manifest.preprocessing.frames)
        assertEquals(2402, manifest.model.visualTokens)
        assertEquals(512, manifest.graphs.getValue("decoder").mostTokens)
        assertEquals(-200, manifest.prompt.placeholderId)
        assertEquals(manifest.model.stopIds, manifest.prompt.stopIds)
        for ((name, entry) in manifest.entries) assertEquals(name, File(folder, name).length(), entry.bytes)
    }

    @Test
    fun `a change by hand is noticed`() {
        val text = bundle.manifestFile.readText()
        assertEquals(4096, Manifest.parse(text).decoder.maxContext)
        val changed = text.replace("\"max_context\":4096", "\"max_context\":8192")
        says(thrown<VideoGptException.BadFile> { Manifest.parse(changed) }, "manifest_sha256", "edit by hand", "build the bundle again")
    }

    @Test
    fun `every fault is named with its place`() {
        refused({ it.remove("kernels") }, "kernels is missing")
        refused({ it["colour"] = "red" }, "colour is not known")
        refused({ it["bad\u001b[31m"] = "red" }, "'bad?[31m' is not known")
        refused({ it["target"] = "tflite" }, "target must be one of executorch, coreml, onnx, not 'tflite'")
        refused({ it["verified"] = "yes" }, "verified must be true or false")
        refused({ it["bundle_bytes"] = JsonNumber("-1") }, "bundle_bytes must be 0 or more")
        refused({ it["bundle_bytes"] = JsonNumber("1.5") }, "bundle_bytes must be an integer")
        refused({ it["bits_per_weight"] = JsonNumber("1e999") }, "bits_per_weight must be a finite number")
        refused({ it["created"] = "yesterday" }, "created must be a UTC time")
        refused({ it["custom_operators"] = listOf("ok", "") }, "custom_operators[1] must be a name")
        refused({ it.at("model").remove("clip") }, "model.clip is missing")
        refused({ it.at("model", "decoder")["layers"] = "3" }, "model.decoder.layers must be an integer, not '3'")
        refused({ it.at("graphs").remove("decoder") }, "graphs.decoder is missing")
        refused({ it.at("graphs")["encoder"] = it.at("graphs")["decoder"] }, "graphs.encoder is not known")
        refused({ it.at("graphs", "decoder")["name"] = "encoder" }, "graphs.decoder.name must be 'decoder', not 'encoder'")
        refused({ it.at("graphs", "decoder")["delegated"] = JsonNumber("1.01") }, "graphs.decoder.delegated must be a share from 0 to 1")
        refused({ it.at("graphs", "decoder")["dynamic_axes"] = listOf<Any>() }, "graphs.decoder: a shape names 'tokens'")
        refused({ it.at("graphs", "decoder")["sha256"] = "abc" }, "graphs.decoder.sha256 must be a SHA-256")
        refused({ it.input()["shape"] = listOf(JsonNumber("0")) }, "graphs.decoder.inputs[0].shape[0] must be 1 or more")
        refused({ it.input()["dtype"] = "int4" }, "graphs.decoder.inputs[0].dtype must be one of")
        val short = listOf(JsonNumber("1"))
        refused({ it.at("preprocessing")["image_mean"] = short }, "preprocessing.image_mean must be a list of 3, not a list of 1")
        refused({ it.at("prompt")["stop_ids"] = listOf(JsonNumber("-1")) }, "prompt.stop_ids[0] must be 0 or more")
    }

    @Test
    fun `no path leaves the bundle`() {
        for (path in listOf("../x", "a/../b", "/etc/passwd", "a//b", "a/", ".", "a\\b", "a b", "", "ü")) {
            refused({ it.at("graphs", "decoder")["file"] = path }, "graphs.decoder.file must be a relative path inside the bundle")
            refused({ it.at("files")[path] = it.at("files")["reference.npz"] }, "a key of files must be a relative path inside the bundle")
        }
    }

    @Test
    fun `other versions say what to update`() {
        bundle.writeManifest { it["schema_version"] = JsonNumber("${SCHEMA_VERSION + 1}") }
        says(thrown<VideoGptException.NewerBundle> { Manifest.read(bundle.folder) }, "newer version", "update the app")
        bundle.writeManifest { it["schema_version"] = JsonNumber("2"); it["from_then"] = true }
        says(thrown<VideoGptException.OlderBundle> { Manifest.read(bundle.folder) }, "older version", "build the bundle again")
    }

    @Test
    fun `a folder without a manifest is no bundle`() {
        says(thrown<VideoGptException.NoBundle> { Manifest.read(File(temporary.root, "none")) }, "none", "no such folder")
        says(thrown<VideoGptException.NoBundle> { Manifest.read(temporary.newFolder()) }, "there is no manifest.json in it")
        bundle.manifestFile.writeBytes(byteArrayOf('"'.code.toByte(), -1, '"'.code.toByte()))
        says(thrown<VideoGptException.BadFile> { Manifest.read(bundle.folder) }, "manifest.json", "UTF-8")
        for (text in listOf("", "[]", "3", "{\"schema_version\": \"3\"}", "{}")) {
            bundle.manifestFile.writeText(text)
            says(thrown<VideoGptException.BadFile> { Manifest.read(bundle.folder) }, "manifest.json")
        }
    }

    private fun refused(change: (MutableMap<String, Any?>) -> Unit, vararg parts: String) {
        bundle.writeManifest(change)
        val error = thrown<VideoGptException.BadFile> { Manifest.read(bundle.folder) }
        says(error, *parts, "build the bundle again")
        assertTrue(error.message!!, error.message!!.startsWith("${bundle.manifestFile}: "))
    }

    @Suppress("UNCHECKED_CAST")
    private fun MutableMap<String, Any?>.input() = (at("graphs", "decoder")["inputs"] as List<*>).first() as MutableMap<String, Any?>
}
