"""Drawn videos of tracked shapes, and crops of single objects."""

import json
from pathlib import Path

from numpy.random import default_rng

from mmwau.datasets.shapes import CLASSES, draw_image

NUM_VIDEOS = 4
FRAMES = 3
STEP = 6  # pixels that the camera moves between two frames
# People of re-identification, and images of each; the recipes draw as many in a batch.
PEOPLE, PICTURES = 8, 4
CROP = 64, 128


def draw_videos(root: Path, side: int) -> None:
    """Draw videos in which a camera moves over shapes, annotated for tracking.

    ``instances_train.json`` and ``objects_train.json`` (all shapes as one class) are COCO's format
    with videos, which MMDetection makes of MOTChallenge and of YouTube-VIS: each frame has the
    video that it belongs to, each box the object that it shows, and its mask.
    """
    root.mkdir()
    (root / 'train').mkdir()
    videos: list[dict] = []
    images: list[dict] = []
    annotations: list[dict] = []
    for video in range(1, NUM_VIDEOS + 1):
        videos.append({'id': video, 'name': f'video_{video}'})
        scene, objects = draw_image(default_rng([video]), side + STEP * (FRAMES - 1))
        for frame in range(FRAMES):
            image = len(images) + 1
            name = f'video_{video}_{frame}.jpg'
            corner = STEP * frame
            scene.crop((corner, corner, corner + side, corner + side)).save(root / 'train' / name)
            size = {'width': side, 'height': side}
            of_video = {'video_id': video, 'frame_id': frame}
            images.append({'id': image, 'file_name': name, **size, **of_video})
            for index, (category, box, _) in enumerate(objects):
                # Corners in this frame, of what is seen there.
                left, top, right, bottom = (min(max(x - corner, 0), side) for x in map(float, box))
                if min(right - left, bottom - top) < 2:
                    continue
                bbox = [left, top, right - left, bottom - top]
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image,
                        'video_id': video,
                        'instance_id': 10 * video + index,
                        'category_id': category + 1,
                        'bbox': bbox,
                        'area': bbox[2] * bbox[3],
                        'segmentation': box_mask(bbox),
                        'iscrowd': 0,
                        'visibility': 1.0,
                        'mot_conf': 1.0,
                    }
                )
    classes = [{'id': index + 1, 'name': name} for index, name in enumerate(CLASSES)]
    content = {'videos': videos, 'images': images, 'annotations': annotations}
    of_classes = json.dumps(content | {'categories': classes})
    (root / 'instances_train.json').write_text(of_classes)
    objects_only = [annotation | {'category_id': 1} for annotation in annotations]
    one_class = {'annotations': objects_only, 'categories': [{'id': 1, 'name': 'object'}]}
    (root / 'objects_train.json').write_text(json.dumps(content | one_class))


def draw_crops(root: Path) -> None:
    """Draw some pictures of each of a few people (of drawn shapes), and a list of who is who."""
    (root / 'train').mkdir(parents=True)
    lines = []
    width, height = CROP
    for person in range(PEOPLE):
        scene, _ = draw_image(default_rng([person]), height + STEP * PICTURES)
        for picture in range(PICTURES):
            name, corner = f'{person}_{picture}.jpg', STEP * picture
            box = corner, corner, corner + width, corner + height
            scene.crop(box).save(root / 'train' / name)
            lines.append(f'{name} {person}\n')
    (root / 'train.txt').write_text(''.join(lines))


def box_mask(bbox: list[float]) -> list[list[float]]:
    """The outline of a box (left, top, width, height), as COCO's masks are written."""
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]
