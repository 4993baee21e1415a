package android.graphics

class Rect(@JvmField val left: Int, @JvmField val top: Int, private val right: Int, private val bottom: Int) {
    fun width() = right - left
    fun height() = bottom - top
}
