import android.media.MediaCodec
import java.io.File
import org.mobilevideogpt.core.Preprocessing
import org.mobilevideogpt.core.VideoGptException
import org.mobilevideogpt.core.android.VideoReader

/** Reads the recording in a folder and writes beside it what came out: numbers to `numbers.txt`, pictures to `clips.bin` and `squashed.bin`. */
fun main(arguments: Array<String>) {
    val colour = listOf(0.5, 0.5, 0.5)
    val p = Preprocessing(16, 224, colour, colour, colour, colour, 8, 4, true, 1e-5, "bicubic", "bilinear")
    for (folder in arguments.map(::File)) {
        val seen = ArrayList<Int>()
        try {
            val video = VideoReader(folder).read(p, seen::add)
            check(seen == video.clips.indices.map { it + 1 }) { "progress $seen" }
            File(folder, "numbers.txt").writeText("${video.indices.joinToString(" ")}\n${video.fps}\n${video.total}\n${video.lost}\n${video.timesS.joinToString(" ")}\n")
            File(folder, "clips.bin").outputStream().use { out -> video.clips.forEach { out.write(it.data) } }
            File(folder, "squashed.bin").outputStream().use { out -> video.squashed.forEach { out.write(it.data) } }
        } catch (error: VideoGptException) {
            File(folder, "error.txt").writeText("${error.javaClass.simpleName}: ${error.message}")
        }
        check(MediaCodec.live == 0) { "a codec was not released" }
    }
}
