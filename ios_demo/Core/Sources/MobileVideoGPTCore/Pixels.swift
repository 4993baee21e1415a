import Foundation

/// What the encoders read: [16, 3, 224, 224] float32 RGB in 0..255 each.
public struct Pixels: Sendable, Equatable {
    public let clip: FloatTensor
    public let video: FloatTensor

    public init(clip: FloatTensor, video: FloatTensor) {
        self.clip = clip
        self.video = video
    }

    /// Resizes frames, at most as many as the manifest says, as the release does.
    public static func of(_ frames: [RGBImage], _ preprocessing: Preprocessing) -> Pixels {
        Pixels(clip: clipPixels(frames, preprocessing), video: videoPixels(frames, preprocessing))
    }
}

/// The same from frames that come one by one and need not be kept: in full they may be gigabytes.
public struct PixelsBuilder: Sendable {
    private let preprocessing: Preprocessing
    private var clip: [[UInt8]] = []
    private var video: [[UInt8]] = []

    public init(_ preprocessing: Preprocessing) { self.preprocessing = preprocessing }

    /// Frames so far.
    public var count: Int { clip.count }

    /// Takes the next frame; one behind the last that the encoders see is left out.
    public mutating func add(_ frame: RGBImage) {
        guard count < preprocessing.frames else { return }
        clip.append(clipImage(frame, side: preprocessing.imageSize))
        video.append(videoImage(frame, side: preprocessing.imageSize))
    }

    /// The pixels, padded up to the number of frames that the encoders see.
    public func finish() -> Pixels {
        Pixels(
            clip: padded(clip, preprocessing, mean: preprocessing.imageMean),
            video: padded(video, preprocessing, mean: preprocessing.videoMean))
    }
}

/// CLIP's pixels of up to 16 frames: [16, 3, 224, 224] in 0..255.
public func clipPixels(_ frames: [RGBImage], _ preprocessing: Preprocessing) -> FloatTensor {
    let images = frames.prefix(preprocessing.frames).map { clipImage($0, side: preprocessing.imageSize) }
    return padded(images, preprocessing, mean: preprocessing.imageMean)
}

/// VideoMamba's pixels of up to 16 frames: [16, 3, 224, 224] in 0..255.
public func videoPixels(_ frames: [RGBImage], _ preprocessing: Preprocessing) -> FloatTensor {
    let images = frames.prefix(preprocessing.frames).map { videoImage($0, side: preprocessing.imageSize) }
    return padded(images, preprocessing, mean: preprocessing.videoMean)
}

/// Pictures [side, side, 3] as float NCHW, behind them frames of mean x 255, which are zero after normalisation.
private func padded(_ images: [[UInt8]], _ preprocessing: Preprocessing, mean: [Double]) -> FloatTensor {
    let side = preprocessing.imageSize
    let plane = side * side
    let count = preprocessing.frames * 3 * plane
    let data = [Float](unsafeUninitializedCapacity: count) { out, initialized in
        for frame in 0..<preprocessing.frames {
            for channel in 0..<3 {
                let begin = (frame * 3 + channel) * plane
                if frame < images.count {
                    images[frame].withUnsafeBufferPointer { image in
                        for i in 0..<plane { out[begin + i] = Float(image[i * 3 + channel]) }
                    }
                } else {
                    let padding = Float(mean[channel]) * 255
                    for i in 0..<plane { out[begin + i] = padding }
                }
            }
        }
        initialized = count
    }
    return FloatTensor(shape: [preprocessing.frames, 3, side, side], data: data)
}
