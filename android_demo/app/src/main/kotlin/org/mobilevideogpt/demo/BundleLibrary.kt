package org.mobilevideogpt.demo

import android.content.Context
import java.io.File
import org.mobilevideogpt.core.bundlesIn

/** The bundles on this phone, one folder each, where `adb push` and downloads put them; and which of them is used. */
class BundleLibrary(context: Context) {
    /** `/sdcard/Android/data/org.mobilevideogpt.demo/files/bundles`; in the app's own memory where a phone has no such storage. */
    val folder: File = context.getExternalFilesDir("bundles") ?: File(context.filesDir, "bundles").also { it.mkdirs() }

    /** Where it is noted which bundles were hashed already. */
    val stamps = File(context.filesDir, "stamps")

    private val preferences = context.getSharedPreferences("library", Context.MODE_PRIVATE)

    /** Reads the disk. */
    fun bundles(): List<File> = bundlesIn(folder)

    fun choose(bundle: File) = preferences.edit().putString(CHOSEN, bundle.name).apply()

    /** The bundle of the last time; null where there was none, or it is gone. */
    fun chosen(): File? = preferences.getString(CHOSEN, null)?.let { File(folder, it) }?.takeIf { it.isDirectory }

    /** Removes a bundle from the phone. Takes a while. */
    fun delete(bundle: File): Boolean = bundle.deleteRecursively()

    private companion object {
        const val CHOSEN = "chosen"
    }
}
