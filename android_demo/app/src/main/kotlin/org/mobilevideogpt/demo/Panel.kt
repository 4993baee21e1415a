package org.mobilevideogpt.demo

import android.content.Context
import java.util.Locale
import org.mobilevideogpt.core.Answer
import org.mobilevideogpt.core.Ending
import org.mobilevideogpt.core.android.Device

/** What an answer cost, and how the phone is. Without an answer only the latter. */
fun panelText(context: Context, cost: Answer?, device: Device): String {
    val lines = ArrayList<String>()
    val first = cost?.firstTokenSeconds
    if (cost != null && first != null) {
        lines += context.getString(R.string.panel_first_token, first, stages(cost.stagesSeconds))
        val rate = cost.tokensPerSecond?.let { String.format(Locale.ROOT, "%.1f", it) } ?: "-"
        lines += context.getString(R.string.panel_rate, rate, cost.ids.size, cost.contextTokens, cost.maxContext)
    }
    val peak = cost?.peakRssBytes?.let(::megabytes) ?: "-"
    lines += context.getString(R.string.panel_phone, peak, megabytes(device.availableBytes), device.thermalState)
    return lines.joinToString("\n")
}

/** `read 0.41, image_encoder 1.20, ...`: seconds of each stage, as the runtime names them. */
fun stages(seconds: Map<String, Double>): String =
    seconds.entries.joinToString(", ") { (name, value) -> String.format(Locale.ROOT, "%s %.2f", name, value) }

fun megabytes(bytes: Long): String = String.format(Locale.ROOT, "%d MB", bytes / 1_000_000)

/** What an ending means to the user; null for a whole answer. */
fun endingText(ending: Ending): Int? = when (ending) {
    Ending.COMPLETE -> null
    Ending.STOPPED -> R.string.ending_stopped
    Ending.LIMIT -> R.string.ending_limit
    Ending.CONTEXT_FULL -> R.string.ending_context_full
}
