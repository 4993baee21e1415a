"""The seven graphs of a bundle, in the order in which data flows through them."""

from export.components import decoder, frame_scorer, image_encoder, projectors, token_embedding, video_encoder
from export.components.base import Component, Form, Signature

COMPONENTS: dict[str, Component] = {
    component.name: component
    for component in (
        image_encoder.COMPONENT,
        frame_scorer.COMPONENT,
        video_encoder.COMPONENT,
        projectors.IMAGE_PROJECTOR,
        projectors.VIDEO_PROJECTOR,
        token_embedding.COMPONENT,
        decoder.COMPONENT,
    )
}

__all__ = ["COMPONENTS", "Component", "Form", "Signature"]
