import SwiftUI

/// The sampled frames in order; a star marks those that the video encoder sees.
struct FrameStrip: View {
    let pictures: [FramePicture]
    let keyFrames: Set<Int>

    var body: some View {
        if !pictures.isEmpty {
            ScrollView(.horizontal) {
                LazyHStack(spacing: 4) {
                    ForEach(Array(pictures.enumerated()), id: \.element.id) { place, picture in
                        FrameCell(picture: picture, isKey: keyFrames.contains(place))
                    }
                }
                .padding(.horizontal)
            }
            .frame(height: 110)
        }
    }
}

private struct FrameCell: View {
    let picture: FramePicture
    let isKey: Bool

    var body: some View {
        VStack(spacing: 2) {
            Image(decorative: picture.picture, scale: 1)
                .resizable()
                .scaledToFit()
                .frame(height: 80)
                .overlay(alignment: .topTrailing) {
                    if isKey { Image(systemName: "star.fill").foregroundStyle(.yellow) }
                }
            Text(seconds(picture.seconds)).font(.caption2).foregroundStyle(.secondary)
        }
        .accessibilityElement(children: .ignore)
        .accessibilityLabel("Frame \(picture.number)\(isKey ? ", a key frame" : "")")
    }
}
