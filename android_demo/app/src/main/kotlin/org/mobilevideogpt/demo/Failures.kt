package org.mobilevideogpt.demo

import org.mobilevideogpt.core.VideoGptException

/** What the button below a failure does. */
enum class Remedy(val label: Int) {
    CHOOSE_BUNDLE(R.string.bundles),
    CHOOSE_VIDEO(R.string.pick_video),
    NEW_CONVERSATION(R.string.new_conversation),
    DISMISS(R.string.dismiss),
}

/** How a failure is shown, above its own line. */
class Failure(val title: Int, val remedy: Remedy)

/** Without an `else`: a new kind of failure has to be given its screen here before the app compiles. */
fun failureOf(error: VideoGptException): Failure = when (error) {
    is VideoGptException.NoBundle,
    is VideoGptException.BadFile,
    is VideoGptException.MissingFile,
    is VideoGptException.ChangedFile,
    is VideoGptException.UnreadableFile,
    is VideoGptException.NoTokenizer,
    -> Failure(R.string.failure_bundle_broken, Remedy.CHOOSE_BUNDLE)

    is VideoGptException.NewerBundle,
    is VideoGptException.OlderBundle,
    is VideoGptException.WrongTarget,
    is VideoGptException.WrongDelegate,
    is VideoGptException.MissingOperators,
    -> Failure(R.string.failure_bundle_unfit, Remedy.CHOOSE_BUNDLE)

    is VideoGptException.DoesNotFit -> Failure(R.string.failure_memory, Remedy.CHOOSE_BUNDLE)

    is VideoGptException.GraphFailed,
    is VideoGptException.LogitsNotFinite,
    -> Failure(R.string.failure_model, Remedy.CHOOSE_BUNDLE)

    is VideoGptException.VideoUnreadable,
    is VideoGptException.NoVideoTrack,
    is VideoGptException.VideoUnsupported,
    -> Failure(R.string.failure_video, Remedy.CHOOSE_VIDEO)

    is VideoGptException.PromptTooLong -> Failure(R.string.failure_context, Remedy.NEW_CONVERSATION)

    is VideoGptException.BadPrompt,
    is VideoGptException.BadOption,
    -> Failure(R.string.failure_question, Remedy.DISMISS)

    is VideoGptException.BadAddress,
    is VideoGptException.NoConnection,
    is VideoGptException.ServerRefused,
    is VideoGptException.WrongHash,
    is VideoGptException.BadListing,
    is VideoGptException.Cancelled,
    -> Failure(R.string.failure_download, Remedy.DISMISS)

    is VideoGptException.DiskFull,
    is VideoGptException.StorageFailed,
    -> Failure(R.string.failure_storage, Remedy.DISMISS)
}
