package org.mobilevideogpt.core.android

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.os.PowerManager
import android.os.Process
import android.os.SystemClock
import org.mobilevideogpt.core.Host

/** What the runtime asks of the phone: its memory, its temperature, its name. */
class Device(context: Context) {
    private val activityManager = context.getSystemService(ActivityManager::class.java)
    private val powerManager = context.getSystemService(PowerManager::class.java)

    /** As a person would name it. */
    val name: String = "${Build.MANUFACTURER} ${Build.MODEL}, Android ${Build.VERSION.RELEASE}"

    /** Memory of the phone, in bytes. */
    val totalBytes: Long get() = memory().totalMem

    /** Memory that can be had, in bytes, before the system begins to end apps in the background. */
    val availableBytes: Long get() = memory().availMem

    /** As the benchmark writes it: `none`, `light`, `moderate`, `severe`, `critical`, `emergency`, `shutdown`; `unknown` before Android 10. */
    val thermalState: String
        get() = if (Build.VERSION.SDK_INT >= 29) THERMAL_STATES.getOrElse(powerManager.currentThermalStatus) { "unknown" } else "unknown"

    /** Seconds since this app's process began. */
    val processAgeSeconds: Double get() = (SystemClock.elapsedRealtime() - Process.getStartElapsedRealtime()) / 1e3

    /** @param customOperators whether this build of ExecuTorch holds this project's kernels. */
    fun host(customOperators: Boolean): Host = Host({ availableBytes }, customOperators, setOf("executorch"))

    private fun memory() = ActivityManager.MemoryInfo().also(activityManager::getMemoryInfo)

    private companion object {
        val THERMAL_STATES = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
    }
}
