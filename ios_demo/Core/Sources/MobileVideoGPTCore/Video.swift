import Foundation

/// What a video file says of itself.
public struct VideoInfo: Sendable, Equatable {
    /// Frames, counted as decoded.
    public let frames: Int
    /// Frames a second, the average over the clip.
    public let fps: Double
    /// Lines for the user, where the file ends early for example.
    public let warnings: [String]

    public init(frames: Int, fps: Double, warnings: [String] = []) {
        self.frames = frames
        self.fps = fps
        self.warnings = warnings
    }
}

/// A frame of a clip: its number, counted as decoded, its time from the first one, and its upright pixels.
public struct SampledFrame: Sendable {
    public let number: Int
    public let seconds: Double
    public let image: RGBImage

    public init(number: Int, seconds: Double, image: RGBImage) {
        self.number = number
        self.seconds = seconds
        self.image = image
    }
}

/// Reads video files: AVFoundation in the app. Errors are of `VideoGPTError`'s video cases.
public protocol FrameReading: Sendable {
    /// Counts a video's frames, without decoding them where that can be had.
    func open(_ video: URL) async throws -> VideoInfo
    /// Decodes the frames of these ascending numbers and hands them over one by one, in order; a frame that cannot be decoded is replaced
    /// by its nearest neighbour, under the neighbour's number. Frames are not kept: sixteen of a large video may be a gigabyte.
    func read(_ video: URL, frames: [Int], each: @Sendable (SampledFrame) throws -> Void) async throws
}
