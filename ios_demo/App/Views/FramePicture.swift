import CoreGraphics
import Foundation
import MobileVideoGPTCore

/// A small picture of a sampled frame, for the strip. Unchecked: a CGImage never changes, and not every SDK says so.
struct FramePicture: Identifiable, @unchecked Sendable {
    /// The frame's number, counted as decoded.
    let number: Int
    let seconds: Double
    let picture: CGImage
    let id = UUID()

    private static let longestSide = 192

    /// Every n-th pixel: it is there to be looked at. nil where Core Graphics makes no picture of it.
    init?(_ frame: SampledFrame) {
        let image = frame.image
        let step = max(1, max(image.width, image.height) / Self.longestSide)
        let (width, height) = (image.width / step, image.height / step)
        var pixels = Data(capacity: width * height * 3)
        for row in 0..<height {
            for column in 0..<width {
                let at = (row * step * image.width + column * step) * 3
                pixels.append(contentsOf: image.data[at..<at + 3])
            }
        }
        guard let space = CGColorSpace(name: CGColorSpace.sRGB), let provider = CGDataProvider(data: pixels as CFData),
            let picture = CGImage(
                width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: width * 3, space: space,
                bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider, decode: nil,
                shouldInterpolate: true, intent: .defaultIntent)
        else { return nil }
        number = frame.number
        seconds = frame.seconds
        self.picture = picture
    }
}
