package org.mobilevideogpt.demo

import android.graphics.Bitmap
import org.mobilevideogpt.core.RgbImage

/** [H, W, 3] bytes as a picture that a screen can show. */
fun bitmap(image: RgbImage): Bitmap {
    val colours = IntArray(image.width * image.height) { pixel ->
        fun channel(number: Int) = image.data[3 * pixel + number].toInt() and 255
        (255 shl 24) or (channel(0) shl 16) or (channel(1) shl 8) or channel(2)
    }
    return Bitmap.createBitmap(colours, image.width, image.height, Bitmap.Config.ARGB_8888)
}
