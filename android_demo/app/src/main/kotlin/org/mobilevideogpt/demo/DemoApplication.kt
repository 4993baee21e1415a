package org.mobilevideogpt.demo

import android.app.Application
import android.content.ComponentCallbacks2

/** Holds what outlives a screen: the bundle, the video and the conversation. */
class DemoApplication : Application() {
    val model: ChatModel by lazy { ChatModel(this) }

    /** Another app is in front, or memory is short: what can be loaded again is freed. */
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        model.trimMemory(hidden = level >= ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN)
    }
}
