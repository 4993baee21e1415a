package org.mobilevideogpt.demo

import android.content.ClipData
import android.content.Context
import android.content.Intent
import android.net.Uri
import java.io.File

/** The folder of results that may be shared: what [ResultProvider] hands out. */
fun resultsFolder(context: Context): File = File(context.filesDir, "results").also { it.mkdirs() }

/** An intent that offers a result, a file of [resultsFolder], to other apps. */
fun shareIntent(context: Context, file: File): Intent {
    val uri = Uri.Builder().scheme("content").authority(ResultProvider.AUTHORITY).appendPath(file.name).build()
    val send = Intent(Intent.ACTION_SEND).apply {
        type = ResultProvider.JSON
        putExtra(Intent.EXTRA_STREAM, uri)
        putExtra(Intent.EXTRA_SUBJECT, file.name)
        clipData = ClipData.newRawUri(file.name, uri) // the chooser passes the permission on by this
        addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
    }
    return Intent.createChooser(send, context.getString(R.string.share_title))
}
