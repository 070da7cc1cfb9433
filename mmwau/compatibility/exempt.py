"""What single families need beside the general rules for all recipes."""

from dataclasses import dataclass, field

from .data import SIDE


@dataclass(frozen=True)
class Exempt:
    """What one family needs beside the general rules.

    Args:
        reason: Why.
        mark: What names of the family's own recipes have, where it is not the family's name.
        image_side: Side of the images of a detector, in pixels.
        settings: Settings of the config, by their dotted names.
    """

    reason: str
    mark: str = ''
    image_side: int = SIDE
    settings: dict = field(default_factory=dict)


NOTHING = Exempt('none')
TARGETS = 'optim_wrapper.targets'
IN_DETECTOR = Exempt(
    'targets name the detector', settings={TARGETS: ('detector.backbone', 'detector.neck')}
)
# Of about 200 million weights Adam keeps two numbers each, and the check copies.
HOURGLASS = Exempt(
    'an hourglass of fewer channels and blocks, which fits into the memory of a trial',
    settings={
        'model.backbone.stage_channels': [256] * 6,
        'model.backbone.stage_blocks': [1] * 6,
    },
)
DEEP = Exempt(
    'norms with the statistics of the batch: from random weights its numbers overflow otherwise, '
    'without WAU too',
    settings={'model.backbone.norm_eval': False},
)
PANOPTIC = Exempt(
    'colours become numbers of segments by a function of this tool where panopticapi is missing, '
    'which is not on PyPI'
)
NO_DISTILLATION = Exempt(
    'without distillation, which MMPreTrain does not train',
    settings={'model.head.distillation': False},
)
EXEMPT = {
    'mmdet/ssd': Exempt(
        'SSD itself, not the light one; the sizes of its feature maps are fixed', 'ssd300', 300
    ),
    'mmdet/dcn': Exempt('deformable convolution, not pooling', 'dconv'),
    'mmdet/dcnv2': Exempt('deformable convolution, not pooling', 'mdconv'),
    'mmdet/cascade_rpn': Exempt('with Faster R-CNN: its RPN alone is not built', 'faster-rcnn'),
    # Deformable convolution crashes on numbers that are not finite.
    'mmdet/detectors': Exempt(
        'images of 96 pixels, norms with the statistics of the batch and clipped gradients: from '
        'random weights its numbers overflow otherwise, without WAU too',
        'detectors_cascade',
        96,
        {
            'model.backbone.norm_eval': False,
            'model.neck.rfp_backbone.norm_eval': False,
            'optim_wrapper.clip_grad': {'max_norm': 1.0},
        },
    ),
    'mmdet/ddod': Exempt(
        'images of 320 pixels: its deformable convolution needs maps as large as its kernel',
        image_side=320,
    ),
    'mmdet/gcnet': Exempt('with the global context block, not its baseline', 'gcb'),
    'mmdet/lad': Exempt(
        "covariance_type='full', which is the same for single numbers: 'diag' fails in float32 if "
        'a box is a component by itself',
        settings={'model.teacher_bbox_head.covariance_type': 'full'},
    ),
    'mmdet/soft_teacher': Exempt(
        'targets name the student; clipped gradients: from random weights its numbers grow too '
        'fast to find regions otherwise',
        settings={
            TARGETS: ('student.backbone', 'student.neck'),
            'optim_wrapper.clip_grad': {'max_norm': 1.0},
        },
    ),
    'mmdet/bytetrack': IN_DETECTOR,
    'mmdet/ocsort': IN_DETECTOR,
    'mmdet/albu_example': Exempt(
        'ImageCompression, as albumentations calls JpegCompression now',
        settings={'train_dataloader.dataset.pipeline.3.transforms.3.type': 'ImageCompression'},
    ),
    'mmdet/qdtrack': IN_DETECTOR,
    'mmdet/masktrack_rcnn': IN_DETECTOR,
    'mmdet/reid': Exempt(
        'images of 256 pixels, as its neck pools maps of 8 × 4; a batch is one draw of 8 people',
        image_side=256,
        settings={'train_dataloader.batch_size': 1},
    ),
    'mmdet/hrnet': DEEP,
    'mmdet/res2net': DEEP,
    'mmdet/cornernet': HOURGLASS,
    'mmdet/centripetalnet': HOURGLASS,
    'mmdet/maskformer': PANOPTIC,
    'mmdet/panoptic_fpn': PANOPTIC,
    'mmdet/nas_fcos': Exempt(
        'norms with eps=1e-5: torch refuses 0', settings={'model.backbone.norm_cfg.eps': 1e-5}
    ),
    'mmpretrain/arcface': Exempt(
        'targets name the image encoder', settings={TARGETS: ('image_encoder',)}
    ),
    'mmpretrain/blip': Exempt(
        'for captions; targets name the vision encoder',
        'caption',
        settings={TARGETS: ('visual_encoder',)},
    ),
    'mmpretrain/blip2': Exempt(
        'for retrieval, without a language model of billions of weights; the vision backbone, '
        'which targets name, has 2 of 39 layers',
        'blip2_8xb32',
        settings={
            TARGETS: ('vision_backbone',),
            'model.vision_backbone.arch.num_layers': 2,
        },
    ),
    'mmpretrain/efficientformer': NO_DISTILLATION,
    'mmpretrain/levit': NO_DISTILLATION,
    'mmpretrain/milan': Exempt(
        'a neck for the 768 values of its backbone: the recipe leaves it at 1024',
        settings={'model.neck.embed_dim': 768},
    ),
    'mmpretrain/replknet': Exempt(
        'RepLKNet-31B with 224 pixels, whose own recipe MMEngine can not read',
        settings={
            'model.backbone.arch': '31B',
            'model.head.in_channels': 1024,
            'train_dataloader.dataset.pipeline.1.scale': 224,
        },
    ),
    'mmseg/mobilenet_v3': Exempt(
        'images of 512 pixels: its head needs maps as large as its pooling', image_side=512
    ),
    'mmrotate/rotated_fcos': Exempt('loss on horizontal boxes, which a CPU has', 'hbox'),
}

REF_POINT_HEAD = (
    'MMDetection 3.5.1 builds the head for reference points of Grounding DINO for 512 values, and '
    'gives it 1,024'
)
# Why families fail that fail without WAU too, in the versions that they were tried with.
FAULTS = {
    'mmdet/grounding_dino': REF_POINT_HEAD,
    'mmdet/mm_grounding_dino': REF_POINT_HEAD,
    'mmpretrain/blip2': (
        "MMPreTrain's class for retrieval does not take this setting, and fails without it; the "
        'other recipes freeze the vision backbone'
    ),
}
