package org.mobilevideogpt.demo

import android.view.View
import android.widget.ImageView
import android.widget.LinearLayout

/** The sampled frames in a row, as the image encoder sees them; a border marks the key frames. */
class FrameStrip(private val row: LinearLayout) {
    private var shown: SampledVideo? = null

    fun show(video: SampledVideo?) {
        if (video !== shown) {
            row.removeAllViews()
            video?.pictures?.forEach { picture ->
                val view = ImageView(row.context)
                view.setImageBitmap(picture)
                view.scaleType = ImageView.ScaleType.CENTER_CROP
                val side = row.resources.getDimensionPixelSize(R.dimen.frame)
                row.addView(view, LinearLayout.LayoutParams(side, side).apply { marginEnd = row.resources.getDimensionPixelSize(R.dimen.gap) })
            }
            shown = video
        }
        if (video != null) mark(video)
    }

    private fun mark(video: SampledVideo) {
        val context = row.context
        for (i in 0 until row.childCount) {
            val view = row.getChildAt(i)
            val key = i in video.keyFrames.orEmpty()
            view.foreground = if (key) context.getDrawable(R.drawable.key_frame) else null
            view.importantForAccessibility = View.IMPORTANT_FOR_ACCESSIBILITY_YES
            val description = if (key) R.string.key_frame_description else R.string.frame_description
            view.contentDescription = context.getString(description, i + 1, video.pictures.size, video.frames.timesS[i])
        }
    }
}
