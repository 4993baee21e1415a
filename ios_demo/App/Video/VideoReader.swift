import AVFoundation
import CoreVideo
import Foundation
import MobileVideoGPTCore
import Synchronization

/// Video files through AVFoundation: first the times of all coded frames, then the picked frames decoded from the nearest keyframe only.
///
/// The decoder is asked for the 8-bit 4:2:0 planes in the range that the file has, so that RGB is made here as Python makes it. HDR is not
/// tone-mapped, as in Python. Each call works on an asset of its own; of the last video the frames' times are kept.
final class VideoReader: FrameReading {
    private let last = Mutex<(video: URL, facts: ClipFacts)?>(nil)

    func open(_ video: URL) async throws -> VideoInfo {
        let facts = try await clip(of: video).facts
        return VideoInfo(frames: facts.index.pts.count, fps: facts.index.rate, warnings: facts.warnings)
    }

    func read(_ video: URL, frames: [Int], each: @Sendable (SampledFrame) throws -> Void) async throws {
        let clip = try await clip(of: video)
        let index = clip.facts.index
        var last: SampledFrame?  // stands in for a lost frame where its run has none that decodes
        var lost = 0  // frames before the first that decodes
        for run in index.runs(of: frames) {
            var wanted = run[...]
            var before: (sample: CMSampleBuffer, number: Int)?
            func give(_ sample: CMSampleBuffer, _ number: Int) throws {
                let frame = SampledFrame(number: number, seconds: index.time(of: number), image: try clip.image(of: sample))
                for _ in 0...lost { try each(frame) }
                (last, lost) = (frame, 0)
            }
            try clip.decode(run) { sample, number in
                while let next = wanted.first, next <= number {
                    wanted.removeFirst()
                    // A lost frame's nearest neighbour is the one before it or this one.
                    if let before, index.pts[next] - index.pts[before.number] <= index.pts[number] - index.pts[next] {
                        try give(before.sample, before.number)
                    } else {
                        try give(sample, number)
                    }
                }
                before = (sample, number)
                return !wanted.isEmpty
            }
            for _ in wanted {
                if let before {
                    try give(before.sample, before.number)
                } else if let last {
                    try each(last)
                } else {
                    lost += 1
                }
            }
        }
        if last == nil { throw VideoGPTError.videoWithoutFrames }
    }

    private func clip(of video: URL) async throws -> Clip {
        do {
            let known = last.withLock { $0?.video == video ? $0?.facts : nil }
            let clip = try await Clip(video, known: known)
            last.withLock { $0 = (video, clip.facts) }
            return clip
        } catch let error as VideoGPTError {
            throw error
        } catch let error as CancellationError {
            throw error
        } catch {
            throw VideoGPTError.videoUnreadable(reason: oneLine(error))
        }
    }
}

/// What is known of a video without decoding it.
private struct ClipFacts: Sendable {
    let index: FrameIndex
    let orientation: Orientation
    let fullRange: Bool
    let warnings: [String]
}

/// A video track and what is known of it.
private struct Clip {
    let asset: AVURLAsset
    let track: AVAssetTrack
    let facts: ClipFacts

    private var index: FrameIndex { facts.index }

    init(_ video: URL, known: ClipFacts?) async throws {
        asset = AVURLAsset(url: video, options: [AVURLAssetPreferPreciseDurationAndTimingKey: true])
        guard let track = try await asset.loadTracks(withMediaType: .video).first else { throw VideoGPTError.noVideoTrack }
        self.track = track
        if let known { facts = known } else { facts = try await Self.facts(asset, track) }
    }

    private static func facts(_ asset: AVAsset, _ track: AVAssetTrack) async throws -> ClipFacts {
        let transform = try await track.load(.preferredTransform)
        let rate = try await track.load(.nominalFrameRate)
        let timescale = try await track.load(.naturalTimeScale)
        let shown = try await track.load(.timeRange)
        let format = try await track.load(.formatDescriptions).first
        let coded = try codedFrames(asset, track, timescale: timescale, shown: shown)
        guard let index = FrameIndex(coded, timescale: timescale, declaredRate: Double(rate)) else {
            throw VideoGPTError.videoWithoutFrames
        }
        let hdr = ["the video is HDR, which is not tone-mapped: its colours may look flat to the model"]
        return ClipFacts(
            index: index, orientation: Orientation(a: transform.a, b: transform.b, c: transform.c, d: transform.d),
            fullRange: format.flatMap { value(of: kCMFormatDescriptionExtension_FullRangeVideo, in: $0) as? Bool } ?? false,
            warnings: format.map(isHDR) == true ? hdr : [])
    }

    /// Reads all coded frames without decoding them.
    private static func codedFrames(
        _ asset: AVAsset, _ track: AVAssetTrack, timescale: Int32, shown: CMTimeRange
    ) throws -> [CodedFrame] {
        let (reader, output) = try start(asset, track, settings: nil, range: nil)
        defer { reader.cancelReading() }
        var frames: [CodedFrame] = []
        while let sample = output.copyNextSampleBuffer() {
            try Task.checkCancellation()
            let attachments = CMSampleBufferGetSampleAttachmentsArray(sample, createIfNecessary: false) as? [[String: Any]] ?? []
            for number in 0..<CMSampleBufferGetNumSamples(sample) {
                var timing = CMSampleTimingInfo()
                guard CMSampleBufferGetSampleTimingInfo(sample, at: number, timingInfoOut: &timing) == 0,
                    timing.presentationTimeStamp.isNumeric
                else { continue }
                let flags = number < attachments.count ? attachments[number] : [:]
                let duration = timing.duration.isNumeric ? ticks(timing.duration, timescale) : 0
                frames.append(
                    CodedFrame(
                        pts: ticks(timing.presentationTimeStamp, timescale),
                        duration: duration,
                        isKeyframe: !flag(flags, kCMSampleAttachmentKey_NotSync),
                        isShown: !flag(flags, kCMSampleAttachmentKey_DoNotDisplay) && shown.containsTime(timing.presentationTimeStamp)))
            }
        }
        if reader.status == .failed && frames.isEmpty, let error = reader.error { throw error }
        return frames
    }

    /// Decodes from the first of `run` to its last and hands over each frame with its number, until `more` says no.
    func decode(_ run: [Int], _ more: (CMSampleBuffer, Int) throws -> Bool) throws {
        guard let first = run.first, let last = run.last else { return }
        let end = last + 1 < index.pts.count ? index.pts[last + 1] : max(index.end, index.pts[last] + 1)
        let range = CMTimeRange(
            start: CMTime(value: index.pts[first], timescale: index.timescale),
            duration: CMTime(value: end - index.pts[first], timescale: index.timescale))
        let format = facts.fullRange ? kCVPixelFormatType_420YpCbCr8BiPlanarFullRange : kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange
        let settings: [String: Any] = [kCVPixelBufferPixelFormatTypeKey as String: format]
        let (reader, output) = try Self.start(asset, track, settings: settings, range: range)
        defer { reader.cancelReading() }
        while let sample = output.copyNextSampleBuffer() {
            try Task.checkCancellation()
            let time = CMSampleBufferGetPresentationTimeStamp(sample)
            guard CMSampleBufferGetImageBuffer(sample) != nil, time.isNumeric else { continue }
            if try !more(sample, index.nearest(to: Self.ticks(time, index.timescale))) { return }
        }
    }

    /// The upright RGB picture of a decoded frame.
    func image(of sample: CMSampleBuffer) throws -> RGBImage {
        guard let buffer = CMSampleBufferGetImageBuffer(sample) else { throw VideoGPTError.videoWithoutFrames }
        return try buffer.rgb(facts.orientation)
    }

    private static func start(
        _ asset: AVAsset, _ track: AVAssetTrack, settings: [String: Any]?, range: CMTimeRange?
    ) throws -> (AVAssetReader, AVAssetReaderTrackOutput) {
        let reader = try AVAssetReader(asset: asset)
        let output = AVAssetReaderTrackOutput(track: track, outputSettings: settings)
        output.alwaysCopiesSampleData = false
        if let range { reader.timeRange = range }
        guard reader.canAdd(output) else { throw VideoGPTError.videoUnreadable(reason: "this device cannot decode its format") }
        reader.add(output)
        guard reader.startReading() else {
            throw VideoGPTError.videoUnreadable(reason: reader.error.map(oneLine) ?? "AVFoundation does not say why")
        }
        return (reader, output)
    }

    private static func ticks(_ time: CMTime, _ timescale: Int32) -> Int64 {
        time.timescale == timescale
            ? time.value : CMTimeConvertScale(time, timescale: timescale, method: .roundHalfAwayFromZero).value
    }

    private static func flag(_ flags: [String: Any], _ key: CFString) -> Bool { flags[key as String] as? Bool ?? false }

    private static func value(of key: CFString, in format: CMFormatDescription) -> Any? {
        CMFormatDescriptionGetExtension(format, extensionKey: key)
    }

    private static func isHDR(_ format: CMFormatDescription) -> Bool {
        let transfer = value(of: kCMFormatDescriptionExtension_TransferFunction, in: format) as? String
        let hdr = [kCVImageBufferTransferFunction_ITU_R_2100_HLG, kCVImageBufferTransferFunction_SMPTE_ST_2084_PQ]
        return hdr.contains { $0 as String == transfer }
    }
}

extension CVPixelBuffer {
    /// Upright RGB of a buffer of two 8-bit planes (420v, 420f). Throws `VideoGPTError.unsupportedPixels` for any other.
    fileprivate func rgb(_ orientation: Orientation) throws -> RGBImage {
        let format = CVPixelBufferGetPixelFormatType(self)
        let fullRange = format == kCVPixelFormatType_420YpCbCr8BiPlanarFullRange
        guard fullRange || format == kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange, CVPixelBufferGetPlaneCount(self) == 2 else {
            throw VideoGPTError.unsupportedPixels(format: fourCharacters(format))
        }
        guard CVPixelBufferLockBaseAddress(self, .readOnly) == kCVReturnSuccess else {
            throw VideoGPTError.videoUnreadable(reason: "a frame's memory cannot be read")
        }
        defer { CVPixelBufferUnlockBaseAddress(self, .readOnly) }
        let (luma, chroma) = (try plane(0), try plane(1))
        return try Planes(
            width: CVPixelBufferGetWidth(self), height: CVPixelBufferGetHeight(self),
            y: luma.bytes, yRowStride: luma.rowStride,
            u: chroma.bytes, v: UnsafeRawBufferPointer(rebasing: chroma.bytes.dropFirst()),  // U and V take turns
            uvRowStride: chroma.rowStride, uvPixelStride: 2,
            matrix: matrix, fullRange: fullRange, rotation: orientation.rotation, mirrored: orientation.mirrored
        ).rgb()
    }

    private func plane(_ number: Int) throws -> (bytes: UnsafeRawBufferPointer, rowStride: Int) {
        guard let base = CVPixelBufferGetBaseAddressOfPlane(self, number) else {
            throw VideoGPTError.videoUnreadable(reason: "a frame's memory cannot be read")
        }
        let rowStride = CVPixelBufferGetBytesPerRowOfPlane(self, number)
        return (UnsafeRawBufferPointer(start: base, count: rowStride * CVPixelBufferGetHeightOfPlane(self, number)), rowStride)
    }

    /// Where the buffer does not say, BT.601, as ffmpeg has it.
    private var matrix: ColorMatrix {
        let name = CVBufferCopyAttachment(self, kCVImageBufferYCbCrMatrixKey, nil) as? String
        if name == kCVImageBufferYCbCrMatrix_ITU_R_709_2 as String { return .bt709 }
        if name == kCVImageBufferYCbCrMatrix_ITU_R_2020 as String { return .bt2020 }
        return .bt601
    }

    private func fourCharacters(_ code: OSType) -> String {
        let bytes = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: code >> $0) }
        return bytes.allSatisfy { (0x20...0x7E).contains($0) } ? "'\(String(decoding: bytes, as: UTF8.self))'" : "of type \(code)"
    }
}
